/* Layers under one rule, one after the other, in one call: what lies between two products need not wait for Python, and
 * a sum and the norm after it are one pass.
 */
#include "layer_parts.c"

/* Which rows each layer picks of those carried, as dkv.core.packing.Narrowing has it. slots [n]: of the carried rows, numbers
 * [n]: their cells of features; by: 0 = the first rows, and no value is renewed, 1 = those that moved most by cosine,
 * 2 = by distance, beyond `least` */
typedef struct {
    const int64_t *source, *picks, *sequence, *slots, *numbers;
    const float *bias;
    const uint8_t *frozen;
    int64_t rows;
    float least;
    int32_t by;
} Picking;

/* Room for what a layer does with its picked rows [m]: these, normed, their rotation; of the carried rows [n] how far
 * each moved, and which of the picked ones it is, or -1; of the picked ones which they are, their slots and cells.
 * Then what attention and the feed-forward added to them, which torch holds */
typedef struct {
    char *x, *h;
    float *phase, *moved;
    int64_t *own, *index, *slot, *flat, *starts;
    const char *attended, *more;
} Picked;

static Work enter(const Torch *torch, const Layer *first, const Place *p, int64_t attending) {
    Work w = {.torch = torch, .layer = first, .threads = p->threads};
    w.mixed = room(&w, attending * first->heads * first->head_dim * first->size);
    w.bias = p->mask ? room(&w, p->batch * p->slots * first->size) : NULL;
    return w;
}

static void at_layer(Work *w, const Layer *layer, const Memory *memory) {
    w->layer = layer;
    w->memory = *memory;
}

static const void *norm_after(const Layer *const *layers, int64_t i, int64_t count) {
    return i + 1 < count ? layers[i + 1]->attn_norm : NULL;
}

/* Both take x [n, width] through `count` layers, to out [n, width], and return whether all went well. First the
 * ordinary layer */
int dense(const Torch *torch, const Layer *const *layers, const Memory *memories, int64_t count, const Place *p,
          const char *x, char *out) {
    Work w = enter(torch, layers[0], p, p->n);
    char *h = room(&w, p->n * w.layer->width * w.layer->size);
    if (h) norm(&w, x, w.layer->attn_norm, h, p->n);
    for (int64_t i = 0; i < count && !w.failed; i++, x = out) {
        at_layer(&w, layers[i], memories + i);
        const char *more = mixed_in(&w, p, h, 1);
        if (more) add(&w, x, more, out, w.layer->mlp_norm, h, p->n);
        let_go(&w, 0);
        more = fed(&w, h, p->n);
        if (more) add(&w, out, more, out, norm_after(layers, i, count), h, p->n);
        let_go(&w, 0);
    }
    return leave(&w);
}

static Picked room_for(Work *w, int64_t n, int64_t m) {
    int64_t row = w->layer->width * w->layer->size, *numbers = room(w, (4 * m + n) * sizeof(int64_t));
    Picked s = {.x = room(w, m * row), .h = room(w, m * row), .index = numbers};
    s.phase = room(w, m * w->layer->head_dim * sizeof(float));
    s.moved = room(w, n * sizeof(float));
    if (w->failed) return s;
    s.slot = numbers + m, s.flat = numbers + 2 * m, s.starts = numbers + 3 * m, s.own = numbers + 4 * m;
    memset(s.moved, 0, n * sizeof(float));
    return s;
}

/* Renews the values of the carried rows, h [n, width] once normed, and picks m of these by how far they moved */
static void pick(Work *w, const Place *all, const Picking *p, const char *h, const Picked *s, int64_t m) {
    if (p->by) {
        Tensor x = rows(w, h, all->n, w->layer->width);
        const char *value = data(w, product(w, x, w->layer->v, w->layer->v_bias, "none"));
        if (value) moves(w, all, value, s->moved, p->frozen, p->by == 1, p->least);
        let_go(w, 0);
    }
    if (w->failed) return;
    pick_rows(s->moved, p->source, p->bias, p->picks, p->slots, s->index, s->slot, s->flat, m, all->batch, p->rows,
              all->slots);
    for (int64_t i = 0; i < all->n; i++) s->own[i] = -1;
    for (int64_t i = 0; i < m; i++) {
        s->starts[i] = p->sequence[i] * all->sequence + s->slot[i];
        if (s->slot[i] < all->slots) s->own[s->index[i]] = i; /* else it only fills the bucket */
    }
}

/* The picked ones of x [n, width], h [n, width] once normed, through the layer but for its last sum */
static void recompute(Work *w, const Place *p, const float *phase, const char *x, const char *h, Picked *s,
                      int values) {
    int64_t m = p->n, row = w->layer->width * w->layer->size, turned = w->layer->head_dim * sizeof(float);
    if (w->failed || !m) return;
    gather(s->h, h, s->index, m, row);
    gather((char *)s->phase, (const char *)phase, s->index, m, turned);
    s->attended = mixed_in(w, p, s->h, values);
    if (!s->attended) return;
    let_go_but_last(w);
    gather(s->x, x, s->index, m, row);
    add(w, s->x, s->attended, s->x, w->layer->mlp_norm, s->h, m);
    s->more = fed(w, s->h, m);
}

/* The layer's result, out [n, width] and h [n, width] once normed, of the picked rows and of the others */
static void put_together(const Work *w, const int64_t *numbers, const char *x, const Picked *s, char *out,
                         const void *weight, char *h, int64_t n) {
    const Layer *l = w->layer;
    void *kept = w->memory.added;
    const void *one = s->x, *attended = s->attended, *more = s->more;
    if (w->failed) return;
    if (l->size == 4)
        onto_f(kept, numbers, x, s->own, one, attended, more, out, weight, h, n, l->width, l->eps, w->threads);
    else onto_b(kept, numbers, x, s->own, one, attended, more, out, weight, h, n, l->width, l->eps, w->threads);
}

/* V-verify, as dkv.layers.v_verify has it: `all` carried rows, of which each layer recomputes `some`; where these sit is found
 * here */
int verify(const Torch *torch, const Layer *const *layers, const Memory *memories, int64_t count, const Place *all,
           const Place *some, const Picking *p, const char *x, char *out) {
    Work w = enter(torch, layers[0], all, some->n);
    char *h = room(&w, all->n * w.layer->width * w.layer->size);
    Picked s = room_for(&w, all->n, some->n);
    Place own = *some;
    own.phase = s.phase, own.starts = s.starts;
    if (!w.failed) norm(&w, x, w.layer->attn_norm, h, all->n);
    for (int64_t i = 0; i < count && !w.failed; i++, x = out) {
        at_layer(&w, layers[i], memories + i);
        pick(&w, all, p, h, &s, some->n);
        recompute(&w, &own, all->phase, x, h, &s, !p->by);
        put_together(&w, p->numbers, x, &s, out, norm_after(layers, i, count), h, all->n);
        let_go(&w, 0);
    }
    return leave(&w);
}
