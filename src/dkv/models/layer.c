/* A whole layer in one call: the passes of native.c between products and attention that are torch's own, which are
 * called by torch's C interface. The rows of a layer take as long; what lies between them need not wait for Python.
 */
#include "native.c"

#include <stdlib.h>

typedef void *Tensor; /* of torch */

/* Functions of torch, by their addresses; each returns 0, or else what went wrong was an exception */
typedef struct {
    int32_t (*product)(Tensor x, Tensor weight, Tensor *bias, const char *active, const double **scalars,
                       int64_t scalar_count, const char **algorithm, Tensor *made);
    int32_t (*combined)(Tensor x, Tensor other, Tensor weight, Tensor *bias, const char *how, Tensor *made);
    int32_t (*attention)(Tensor q, Tensor k, Tensor v, double dropout, int32_t causal, Tensor *mask, double *scale,
                         Tensor *made, Tensor *sums);
    int32_t (*view)(void *data, int64_t dims, const int64_t *sizes, const int64_t *strides, int64_t offset,
                    int32_t dtype, int32_t device_type, int32_t device, Tensor *made);
    int32_t (*data)(Tensor x, void **data);
    int32_t (*strides)(Tensor x, int64_t **strides);
    int32_t (*release)(Tensor x);
} Torch;

/* A layer's weights, heads of queries and of keys, numbers of a head and of a row; dtype: torch's number of it, size:
 * bytes of one, 4 = float32, 2 = bfloat16 */
typedef struct {
    Tensor qk, v, out, gate, up, down, qk_bias, v_bias;
    const void *attn_norm, *mlp_norm;
    int64_t heads, kv_heads, head_dim, width;
    float eps;
    int32_t dtype, size;
} Layer;

/* n carried rows: their rotation, their first cells; counts [batch]: of each sequence in turn, null = as many
 * of each; mask [batch, slots]: what may be read, null = all. k, v: cells that lie apart as dkv.place.Apart has it */
typedef struct {
    const float *phase;
    const int64_t *starts, *counts;
    const uint8_t *mask;
    char *k, *v;
    int64_t n, batch, slots, sequence, head;
    int32_t threads;
} Place;

/* What `pick_rows` takes, and gives */
typedef struct {
    const int64_t *source;
    const float *bias;
    const int64_t *picks, *slots;
    int64_t *index, *slot, *flat;
    int64_t n, rows;
} Picks;

enum { HELD = 24 };

/* What a call holds of torch's tensors; once something has failed nothing more is done */
typedef struct {
    const Torch *torch;
    const Layer *layer;
    int threads, failed, count;
    Tensor held[HELD];
} Work;

static Tensor hold(Work *w, int32_t failed, const Tensor *made) { /* by its address: it is made as `failed` is told */
    if (failed) w->failed = 1;
    else w->held[w->count++] = *made;
    return failed ? NULL : *made;
}

static void let_go(Work *w, int down_to) {
    while (w->count > down_to) w->torch->release(w->held[--w->count]);
}

static Tensor view(Work *w, const void *data, int64_t dims, const int64_t *sizes, const int64_t *strides) {
    Tensor made = NULL;
    if (w->failed) return made;
    return hold(w, w->torch->view((void *)data, dims, sizes, strides, 0, w->layer->dtype, 0, 0, &made), &made);
}

static Tensor rows(Work *w, const void *data, int64_t n, int64_t c) {
    return view(w, data, 2, (int64_t[]){n, c}, (int64_t[]){c, 1});
}

static Tensor product(Work *w, Tensor x, Tensor weight, Tensor bias, const char *active) {
    Tensor made = NULL;
    if (w->failed) return made;
    return hold(w, w->torch->product(x, weight, bias ? &bias : NULL, active, NULL, 0, NULL, &made), &made);
}

static Tensor times(Work *w, Tensor x, Tensor weight, Tensor other) {
    Tensor made = NULL;
    if (w->failed) return made;
    return hold(w, w->torch->combined(x, other, weight, NULL, "mul", &made), &made);
}

static char *data(Work *w, Tensor x) {
    void *found = NULL;
    if (!w->failed && w->torch->data(x, &found)) w->failed = 1;
    return found;
}

static char *room(Work *w, int64_t numbers) {
    char *made = w->failed ? NULL : aligned_alloc(64, (numbers * w->layer->size + 63) / 64 * 64);
    if (!made) w->failed = 1;
    return made;
}

static void norm(const Work *w, const void *x, const void *weight, void *out, int64_t n) {
    const Layer *l = w->layer;
    if (l->size == 4) norm_f(x, weight, out, n, l->width, l->eps, w->threads);
    else norm_b(x, weight, out, n, l->width, l->eps, w->threads);
}

static void turn(const Work *w, void *x, const float *phase, int64_t n, int64_t heads) {
    if (w->layer->size == 4) turn_f(x, phase, n, heads, w->layer->head_dim, w->threads);
    else turn_b(x, phase, n, heads, w->layer->head_dim, w->threads);
}

static void moves(const Work *w, const Place *p, const void *value, float *moved, const uint8_t *frozen, int cosine,
                  float least) {
    int64_t heads = w->layer->kv_heads, d = w->layer->head_dim;
    void *v = p->v;
    if (w->layer->size == 4)
        renew_f(v, p->starts, value, frozen, moved, p->n, heads, p->head, d, cosine, least, w->threads);
    else renew_b(v, p->starts, value, frozen, moved, p->n, heads, p->head, d, cosine, least, w->threads);
}

static void added(const Work *w, const void *one, const void *other, const int64_t *numbers, const void *x, void *out,
                  int64_t n) {
    if (w->layer->size == 4) onto_f(one, other, numbers, x, out, n, w->layer->width, w->threads);
    else onto_b(one, other, numbers, x, out, n, w->layer->width, w->threads);
}

/* out [n] = x [n] + y [n] */
static void add(const Work *w, const void *x, const void *y, void *out, int64_t n) {
    const float *wide[] = {x, y};
    const uint16_t *half[] = {x, y};
    int threads = n > FEW ? w->threads : 1;
    if (w->layer->size == 4)
#pragma omp parallel for simd num_threads(threads)
        for (int64_t i = 0; i < n; i++) ((float *)out)[i] = wide[0][i] + wide[1][i];
    else
#pragma omp parallel for simd num_threads(threads)
        for (int64_t i = 0; i < n; i++) ((uint16_t *)out)[i] = write_b(read_b(half[0][i]) + read_b(half[1][i]));
}

static void gather(char *to, const char *from, const int64_t *index, int64_t n, int64_t size) {
    for (int64_t i = 0; i < n; i++) memcpy(to + i * size, from + index[i] * size, size);
}

/* What is added to the scores of one sequence's slots: 0 or, where mask [slots] says no, minus infinity */
static Tensor barred(Work *w, const uint8_t *mask, int64_t slots, void *bias) {
    float *wide = bias;
    uint16_t *half = bias;
    if (w->layer->size == 4)
        for (int64_t t = 0; t < slots; t++) wide[t] = mask[t] ? 0 : -INFINITY;
    else
        for (int64_t t = 0; t < slots; t++) half[t] = mask[t] ? 0 : 0xff80;
    return view(w, bias, 4, (int64_t[]){1, 1, 1, slots}, (int64_t[]){slots, slots, slots, 1});
}

/* Attention of n rows of one sequence, queries at q and `pitch` numbers apart, over its slots from cell `first` on, to
 * mixed [n, heads, head_dim]. Heads that share keys stand side by side: batches of torch's, which all read the same */
static void attend_one(Work *w, const Place *p, const char *q, int64_t pitch, int64_t n, int64_t first, Tensor mask,
                       char *mixed) {
    const Layer *l = w->layer;
    int64_t d = l->head_dim, groups = l->kv_heads, each = l->heads / groups, start = w->count, size = l->size;
    const int64_t keys[] = {groups, each, p->slots, d}, apart[] = {p->head * d, 0, d, 1};
    Tensor read = view(w, q, 4, (int64_t[]){groups, each, n, d}, (int64_t[]){each * d, d, pitch, 1});
    Tensor k = view(w, p->k + first * d * size, 4, keys, apart), v = view(w, p->v + first * d * size, 4, keys, apart);
    Tensor made = NULL, sums = NULL;
    if (w->failed) return;
    hold(w, w->torch->attention(read, k, v, 0, 0, mask ? &mask : NULL, NULL, &made, &sums), &made);
    if (!w->failed) hold(w, 0, &sums);
    const char *found = data(w, made);
    int64_t *by = NULL; /* how it lies is torch's business */
    if (!w->failed && w->torch->strides(made, &by)) w->failed = 1;
    int64_t heads = w->failed ? 0 : l->heads, one = d * size;
#pragma omp parallel for num_threads(w->threads) if (n * heads * d > FEW)
    for (int64_t h = 0; h < heads; h++) {
        const char *from = found + (h / each * by[0] + h % each * by[1]) * size;
        for (int64_t i = 0; i < n; i++) memcpy(mixed + (i * heads + h) * one, from + i * by[2] * size, one);
    }
    let_go(w, start);
}

/* Attention of all carried rows, q [n, ...], `pitch` numbers apart, to mixed [n, heads, head_dim] */
static void attend(Work *w, const Place *p, const char *q, int64_t pitch, char *mixed) {
    const Layer *l = w->layer;
    int64_t row = l->heads * l->head_dim * l->size, from = 0, start = w->count;
    char *bias = p->mask ? room(w, p->slots) : NULL;
    for (int64_t s = 0; s < p->batch && !w->failed; s++) {
        int64_t n = p->counts ? p->counts[s] : p->n / p->batch;
        if (!n) continue;
        Tensor mask = p->mask ? barred(w, p->mask + s * p->slots, p->slots, bias) : NULL;
        attend_one(w, p, q + from * pitch * l->size, pitch, n, s * p->sequence, mask, mixed + from * row);
        let_go(w, start);
        from += n;
    }
    memset(mixed + from * row, 0, (p->n - from) * row); /* rows that only fill the bucket are nobody's */
    free(bias);
}

/* What attention adds to rows whose normed ones are h [n, width]: their keys, and with `values` their values, go into
 * their cells; then they attend. A tensor [n, width] */
static Tensor mixed_in(Work *w, const Place *p, const char *h, int values) {
    const Layer *l = w->layer;
    int64_t d = l->head_dim, heads = l->heads + l->kv_heads, q = l->heads * d * l->size, k = l->kv_heads * d * l->size;
    Tensor x = rows(w, h, p->n, l->width), qk = product(w, x, l->qk, l->qk_bias, "none");
    char *turned = data(w, qk), *value = values ? data(w, product(w, x, l->v, l->v_bias, "none")) : NULL;
    char *mixed = room(w, p->n * l->heads * d);
    if (!w->failed) {
        turn(w, turned, p->phase, p->n, heads);
        write_rows(p->k, p->starts, turned + q, p->n, l->kv_heads, p->head, d * l->size, q + k, w->threads);
        if (values) write_rows(p->v, p->starts, value, p->n, l->kv_heads, p->head, d * l->size, k, w->threads);
        attend(w, p, turned, heads * d, mixed);
    }
    Tensor out = product(w, rows(w, mixed, p->n, l->heads * d), l->out, NULL, "none");
    free(mixed);
    return out;
}

/* What the feed-forward adds to x [n, width]; a tensor [n, width] */
static Tensor fed(Work *w, const char *x, int64_t n) {
    const Layer *l = w->layer;
    char *normed = room(w, n * l->width);
    if (normed) norm(w, x, l->mlp_norm, normed, n);
    Tensor h = rows(w, normed, n, l->width), gate = product(w, h, l->gate, NULL, "swish");
    Tensor down = product(w, times(w, h, l->up, gate), l->down, NULL, "none");
    free(normed);
    return down;
}

/* These return whether all went well. What `dkv.models.layers.Block.pick` does: x [n, width] normed, h; how far each
 * value moved, moved [n], as native.c has it; the values go into their cells, and rows are picked by it */
int pick(const Torch *torch, const Layer *layer, const Place *place, const char *x, char *h, float *moved,
         const uint8_t *frozen, int cosine, float least, const Picks *p) {
    Work w = {.torch = torch, .layer = layer, .threads = place->threads};
    norm(&w, x, layer->attn_norm, h, place->n);
    const char *value = data(&w, product(&w, rows(&w, h, place->n, layer->width), layer->v, layer->v_bias, "none"));
    if (!w.failed) {
        moves(&w, place, value, moved, frozen, cosine, least);
        pick_rows(moved, p->source, p->bias, p->picks, p->slots, p->index, p->slot, p->flat, p->n, place->batch,
                  p->rows, place->slots);
    }
    let_go(&w, 0);
    return !w.failed;
}

/* Of the rows x [all, width], h once normed, those that sit at `place`, index [n] of them (null = all): what attention
 * and the feed-forward add to them goes to cells `kept` [n] of attn and of mlp, width numbers each, with `values` their
 * values into theirs. Then out [all, width] = x + what cells numbers [all] hold */
int recompute(const Torch *torch, const Layer *layer, const Place *place, const char *x, const char *h,
              const int64_t *index, char *attn, char *mlp, const int64_t *kept, const int64_t *numbers, char *out,
              int64_t all, int values) {
    Work w = {.torch = torch, .layer = layer, .threads = place->threads};
    int64_t n = place->n, row = layer->width * layer->size, turned = layer->head_dim * sizeof(float);
    char *some = room(&w, n * layer->width), *phase = index ? malloc(n * turned) : NULL;
    Place own = *place;
    if (index && !phase) w.failed = 1;
    if (index && !w.failed) {
        gather(some, h, index, n, row);
        gather(phase, (const char *)place->phase, index, n, turned);
        own.phase = (const float *)phase;
    }
    const char *more = data(&w, mixed_in(&w, &own, index ? some : h, values));
    if (!w.failed) {
        write_rows(attn, kept, more, n, 1, 0, row, row, w.threads);
        if (index) gather(some, x, index, n, row);
        add(&w, index ? some : x, more, some, n * layer->width);
    }
    let_go(&w, 0);
    more = data(&w, fed(&w, some, n));
    if (!w.failed) {
        write_rows(mlp, kept, more, n, 1, 0, row, row, w.threads);
        added(&w, attn, mlp, numbers, x, out, all);
    }
    let_go(&w, 0);
    free(some);
    free(phase);
    return !w.failed;
}

/* The ordinary layer: x [n, width] to out [n, width] */
int dense(const Torch *torch, const Layer *layer, const Place *place, const char *x, char *out) {
    Work w = {.torch = torch, .layer = layer, .threads = place->threads};
    int64_t size = place->n * layer->width;
    norm(&w, x, layer->attn_norm, out, place->n);
    const char *more = data(&w, mixed_in(&w, place, out, 1));
    if (!w.failed) add(&w, x, more, out, size);
    let_go(&w, 0);
    more = data(&w, fed(&w, out, place->n));
    if (!w.failed) add(&w, out, more, out, size);
    let_go(&w, 0);
    return !w.failed;
}
