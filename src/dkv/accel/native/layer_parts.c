/* The parts of a layer: the passes of rowwise_ops.c, and between them products and attention that are torch's own, called by
 * torch's C interface. (fused_layers.c makes layers of them.)
 */
#include "rowwise_ops.c"

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

/* A layer's cells of keys and values, and of what it added */
typedef struct {
    char *k, *v, *added;
} Memory;

/* n carried rows: their rotation, the first of their cells (`At.starts`); counts [batch]: of each sequence in turn,
 * null = as many of each; mask [batch, slots]: what may be read, null = all. Cells of keys and values lie apart by
 * sequence and head as dkv.core.packing.Apart has it */
typedef struct {
    const int64_t *counts;
    const float *phase;
    const int64_t *starts;
    const uint8_t *mask;
    int64_t n, batch, slots, sequence, head;
    int32_t threads;
} Place;

enum { HELD = 24, ROOMS = 16 };

/* A layer at work: room for what attention gives, [n, heads, head_dim], and for what bars slots, [batch, slots]; what
 * is held of torch's tensors, and all room. Once something has failed nothing more is done */
typedef struct {
    const Torch *torch;
    const Layer *layer;
    Memory memory;
    char *mixed, *bias;
    int threads, failed, count, taken;
    Tensor held[HELD];
    void *rooms[ROOMS];
} Work;

static Tensor hold(Work *w, int32_t failed, const Tensor *made) { /* by its address: it is made as `failed` is told */
    if (failed) w->failed = 1;
    else w->held[w->count++] = *made;
    return failed ? NULL : *made;
}

static void let_go(Work *w, int down_to) {
    while (w->count > down_to) w->torch->release(w->held[--w->count]);
}

static void let_go_but_last(Work *w) {
    Tensor last = w->held[--w->count];
    let_go(w, 0);
    w->held[w->count++] = last;
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

static void *room(Work *w, int64_t bytes) { /* until `leave` */
    void *made = w->failed ? NULL : aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (made) w->rooms[w->taken++] = made;
    else w->failed = 1;
    return made;
}

static int leave(Work *w) { /* whether all went well */
    let_go(w, 0);
    while (w->taken) free(w->rooms[--w->taken]);
    return !w->failed;
}

static void norm(const Work *w, const void *x, const void *weight, void *out, int64_t n) {
    const Layer *l = w->layer;
    if (l->size == 4) norm_f(x, weight, out, n, l->width, l->eps, w->threads);
    else norm_b(x, weight, out, n, l->width, l->eps, w->threads);
}

static void turn(const Work *w, const Place *p, void *qk) { /* keys into their cells */
    int64_t kept = w->layer->kv_heads, heads = w->layer->heads + kept, d = w->layer->head_dim;
    void *k = w->memory.k;
    if (w->layer->size == 4) turn_f(qk, p->phase, k, p->starts, p->n, heads, kept, p->head, d, w->threads);
    else turn_b(qk, p->phase, k, p->starts, p->n, heads, kept, p->head, d, w->threads);
}

static void spread(const Work *w, void *x, const void *source, int64_t n, int64_t c, int64_t s, int64_t pitch) {
    if (w->layer->size == 4) spread_f(x, source, n, c, s, pitch, w->threads);
    else spread_b(x, source, n, c, s, pitch, w->threads);
}

static void moves(const Work *w, const Place *p, const void *value, float *moved, const uint8_t *frozen, int cosine,
                  float least) {
    int64_t heads = w->layer->kv_heads, d = w->layer->head_dim;
    void *v = w->memory.v;
    if (w->layer->size == 4)
        renew_f(v, p->starts, value, frozen, moved, p->n, heads, p->head, d, cosine, least, w->threads);
    else renew_b(v, p->starts, value, frozen, moved, p->n, heads, p->head, d, cosine, least, w->threads);
}

/* out [n, width] = x [n, width] + more [n, width]; with a weight, h [n, width] = that normed */
static void add(const Work *w, const void *x, const void *more, void *out, const void *weight, void *h, int64_t n) {
    const Layer *l = w->layer;
    if (l->size == 4) add_f(x, more, out, weight, h, n, l->width, l->eps, w->threads);
    else add_b(x, more, out, weight, h, n, l->width, l->eps, w->threads);
}

static void gather(char *to, const char *from, const int64_t *index, int64_t n, int64_t size) {
    for (int64_t i = 0; i < n; i++) memcpy(to + i * size, from + index[i] * size, size);
}

/* What is added to the scores of some sequences' slots: 0 or, where mask [some, slots] says no, minus infinity */
static Tensor barred(Work *w, const uint8_t *mask, int64_t some, int64_t slots) {
    float *wide = (float *)w->bias;
    uint16_t *half = (uint16_t *)w->bias;
    if (w->layer->size == 4)
        for (int64_t t = 0; t < some * slots; t++) wide[t] = mask[t] ? 0 : -INFINITY;
    else
        for (int64_t t = 0; t < some * slots; t++) half[t] = mask[t] ? 0 : 0xff80;
    return view(w, w->bias, 4, (int64_t[]){some, 1, 1, slots}, (int64_t[]){slots, slots, slots, 1});
}

/* Attention of n rows of each of some sequences, queries at q and `pitch` numbers apart, over their slots from cell
 * `first` on. Gives where the result lies, and `by` how many numbers its dimensions lie apart, which is torch's
 * business: sequences, heads, rows. Where heads share keys it is one sequence, and these groups of heads are torch's
 * batches, which all read the same */
static const char *attend_some(Work *w, const Place *p, const char *q, int64_t pitch, int64_t n, int64_t some,
                               int64_t first, Tensor mask, int64_t **by) {
    const Layer *l = w->layer;
    int64_t d = l->head_dim, each = l->heads / l->kv_heads, shared = each > 1;
    int64_t outer = shared ? l->kv_heads : some, inner = shared ? each : l->heads;
    const int64_t keys[] = {outer, inner, p->slots, d};
    const int64_t apart[] = {(shared ? p->head : p->sequence) * d, shared ? 0 : p->head * d, d, 1};
    const char *k = w->memory.k + first * d * l->size, *v = w->memory.v + first * d * l->size;
    const int64_t reads[] = {outer, inner, n, d}, beside[] = {shared ? inner * d : n * pitch, d, pitch, 1};
    Tensor read = view(w, q, 4, reads, beside);
    Tensor shown = view(w, k, 4, keys, apart), told = view(w, v, 4, keys, apart), made = NULL, sums = NULL;
    if (w->failed) return NULL;
    hold(w, w->torch->attention(read, shown, told, 0, 0, mask ? &mask : NULL, NULL, &made, &sums), &made);
    if (!w->failed) hold(w, 0, &sums);
    const char *found = data(w, made);
    if (!w->failed && w->torch->strides(made, by)) w->failed = 1;
    return w->failed ? NULL : found;
}

/* to [n, heads, head_dim] = what `attend_some` found of one sequence */
static void lay(const Work *w, const char *found, const int64_t *by, int64_t n, char *to) {
    const Layer *l = w->layer;
    int64_t each = l->heads / l->kv_heads, inner = each > 1 ? each : l->heads, one = l->head_dim * l->size;
#pragma omp parallel for num_threads(w->threads) if (n * l->heads * l->head_dim > FEW)
    for (int64_t h = 0; h < l->heads; h++) {
        const char *from = found + (h / inner * by[0] + h % inner * by[1]) * l->size;
        for (int64_t i = 0; i < n; i++) memcpy(to + (i * l->heads + h) * one, from + i * by[2] * l->size, one);
    }
}

/* Whether n rows of each of some sequences lie as `lay` would have them */
static int lies(const Layer *l, const int64_t *by, int64_t n, int64_t some) {
    int64_t row = l->heads * l->head_dim;
    return l->heads == l->kv_heads && by[1] == l->head_dim && by[2] == row && (some == 1 || by[0] == n * row);
}

/* Attention of all carried rows, queries at q and `pitch` numbers apart: [n, heads, head_dim], in w->mixed or where
 * torch left it, which is held. Sequences with as many rows attend together */
static char *attend(Work *w, const Place *p, const char *q, int64_t pitch) {
    const Layer *l = w->layer;
    int64_t row = l->heads * l->head_dim * l->size, from = 0, start = w->count;
    int64_t some = p->counts || l->heads != l->kv_heads ? 1 : p->batch;
    for (int64_t s = 0; s < p->batch && !w->failed; s += some) {
        int64_t n = p->counts ? p->counts[s] : p->n / p->batch, *by = NULL;
        if (!n) continue;
        Tensor mask = p->mask ? barred(w, p->mask + s * p->slots, some, p->slots) : NULL;
        const char *found = attend_some(w, p, q + from * pitch * l->size, pitch, n, some, s * p->sequence, mask, &by);
        if (found && n * some == p->n && lies(l, by, n, some)) return (char *)found;
        for (int64_t b = 0; b < some && found; b++)
            lay(w, found + b * by[0] * l->size, by, n, w->mixed + (from + b * n) * row);
        let_go(w, start);
        from += n * some;
    }
    memset(w->mixed + from * row, 0, (p->n - from) * row); /* rows that only fill the bucket are nobody's */
    return w->mixed;
}

/* What attention adds to rows whose normed ones are h [n, width]: their keys, and with `values` their values, go into
 * their cells; then they attend. [n, width], held */
static const char *mixed_in(Work *w, const Place *p, const char *h, int values) {
    const Layer *l = w->layer;
    int64_t d = l->head_dim, size = d * l->size, both = (l->heads + l->kv_heads) * d;
    Tensor x = rows(w, h, p->n, l->width), qk = product(w, x, l->qk, l->qk_bias, "none");
    char *turned = data(w, qk), *value = values ? data(w, product(w, x, l->v, l->v_bias, "none")) : NULL;
    if (w->failed) return NULL;
    spread(w, turned, turned, p->n, both, both, both);
    turn(w, p, turned);
    if (values)
        write_rows(w->memory.v, p->starts, value, p->n, l->kv_heads, p->head, size, l->kv_heads * size, w->threads);
    char *attended = attend(w, p, turned, both);
    if (w->failed) return NULL;
    spread(w, attended, turned, p->n, l->heads * d, 1, both);
    return data(w, product(w, rows(w, attended, p->n, l->heads * d), l->out, NULL, "none"));
}

/* What the feed-forward adds to rows whose normed ones are h [n, width]: [n, width], held */
static const char *fed(Work *w, const char *h, int64_t n) {
    const Layer *l = w->layer;
    Tensor x = rows(w, h, n, l->width), gate = product(w, x, l->gate, NULL, "swish");
    return data(w, product(w, times(w, x, l->up, gate), l->down, NULL, "none"));
}
