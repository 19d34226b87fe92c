/* The small operations between products, each in one pass over the rows, in float32 whatever the dtype.
 *
 * Plain C in which no inner loop branches, so that compilers make vector instructions of it. Every function stands here
 * for float32 (f) and bfloat16 (b). Rows are contiguous.
 */
#include "argmax_logprob.c"

/* to [c] = row [c] / sqrt(mean of squares + eps), rounded, times weight [c] */
#define NORM(T, D)                                                                                                     \
    static inline void norm_row_##D(const T *row, const T *weight, T *to, int64_t c, float eps) {                      \
        float sum = c % 2 ? read_##D(row[c - 1]) * read_##D(row[c - 1]) : 0;                                           \
        _Pragma("omp simd reduction(+ : sum)")                                                                         \
        for (int64_t j = 0; j < c - 1; j += 2) {                                                                       \
            float a, b;                                                                                                \
            read_two_##D(row + j, &a, &b);                                                                             \
            sum += a * a + b * b;                                                                                      \
        }                                                                                                              \
        float scale = 1 / sqrtf(sum / c + eps);                                                                        \
        _Pragma("omp simd")                                                                                            \
        for (int64_t j = 0; j < c - 1; j += 2) {                                                                       \
            float a, b, u, v;                                                                                          \
            read_two_##D(row + j, &a, &b);                                                                             \
            read_two_##D(weight + j, &u, &v);                                                                          \
            write_two_##D(to + j, round_##D(a * scale) * u, round_##D(b * scale) * v);                                 \
        }                                                                                                              \
        if (c % 2) to[c - 1] = write_##D(round_##D(read_##D(row[c - 1]) * scale) * read_##D(weight[c - 1]));           \
    }                                                                                                                  \
                                                                                                                       \
    void norm_##D(const T *x, const T *weight, T *out, int64_t n, int64_t c, float eps, int threads) {                 \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * c > FEW)")                               \
        for (int64_t i = 0; i < n; i++) norm_row_##D(x + i * c, weight, out + i * c, c, eps);                          \
    }

/* x [n, heads, d], channels in pairs, turned in place by phase [n, d / 2, 2]: cos, sin. The last `kept` heads do not
 * stay there but go to cells as in write_rows */
#define TURN(T, D)                                                                                                     \
    void turn_##D(T *x, const float *phase, T *cells, const int64_t *starts, int64_t n, int64_t heads, int64_t kept,   \
                  int64_t apart, int64_t d, int threads) {                                                             \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * heads * d > FEW)")                       \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            float cos[d / 2], sin[d / 2];                                                                              \
            for (int64_t j = 0; j < d / 2; j++) read_two_f(phase + i * d + 2 * j, cos + j, sin + j);                   \
            for (int64_t h = 0; h < heads; h++) {                                                                      \
                int64_t of = h - (heads - kept);                                                                       \
                T *row = x + (i * heads + h) * d, *to = of < 0 ? row : cells + (starts[i] + of * apart) * d;           \
                _Pragma("omp simd")                                                                                    \
                for (int64_t j = 0; j < d / 2; j++) {                                                                  \
                    float a, b;                                                                                        \
                    read_two_##D(row + 2 * j, &a, &b);                                                                 \
                    write_two_##D(to + 2 * j, a * cos[j] - b * sin[j], a * sin[j] + b * cos[j]);                       \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }

/* x [n, c], NaN throughout the rows in which source [n, s], `pitch` numbers apart, holds NaN or infinity: torch's fused
 * attention can turn such queries and keys into zeros, and the logits would be finite and wrong */
#define SPREAD(T, D)                                                                                                   \
    void spread_##D(T *x, const T *source, int64_t n, int64_t c, int64_t s, int64_t pitch, int threads) {              \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * s > FEW)")                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            float zero = 0;                                                                                            \
            _Pragma("omp simd reduction(+ : zero)")                                                                    \
            for (int64_t j = 0; j < s; j++) zero += read_##D(source[i * pitch + j]) * 0;                               \
            if (zero != zero)                                                                                          \
                for (int64_t j = 0; j < c; j++) x[i * c + j] = write_##D(zero);                                        \
        }                                                                                                              \
    }

SPREAD(float, f)
SPREAD(uint16_t, b)

/* old [heads, d] = the cells of a row, `apart` numbers from head to head; new takes their place if `renewed` */
#define GATHER(T, D)                                                                                                   \
    static void gather_##D(T *cells, const T *new, T *old, int64_t heads, int64_t apart, int64_t d, int renewed) {     \
        for (int64_t h = 0; h < heads; h++)                                                                            \
            _Pragma("omp simd")                                                                                        \
            for (int64_t j = 0; j < d; j++) {                                                                          \
                T held = cells[h * apart + j];                                                                         \
                old[h * d + j] = held;                                                                                 \
                cells[h * apart + j] = renewed ? new[h * d + j] : held;                                                \
            }                                                                                                          \
    }

GATHER(float, f)
GATHER(uint16_t, b)

/* out [n]: how far the cells of each row moved to new [n, heads, d], as dkv.core.drift has it: 1 - cosine, or else the
 * distance; what is less than `least` of the length is rounding. Then new takes their place, but where frozen [n] (or
 * null) says no. Head h of row i lies in cell starts[i] + h * apart, of d numbers; rows share one only where nobody
 * reads it */
#define RENEW(T, D)                                                                                                    \
    void renew_##D(T *cells, const int64_t *starts, const T *new, const uint8_t *frozen, float *out, int64_t n,        \
                   int64_t heads, int64_t apart, int64_t d, int cosine, float least, int threads) {                    \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * heads * d > FEW)")                       \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T *a = new + i * heads * d;                                                                          \
            T b[heads * d];                                                                                            \
            gather_##D(cells + starts[i] * d, a, b, heads, apart * d, d, !frozen || !frozen[i]);                       \
            int64_t c = heads * d, last = c - 1;                                                                       \
            float after = 0, before = 0, square = 0;                                                                   \
            float u = c % 2 ? read_##D(a[last]) : 0, v = c % 2 ? read_##D(b[last]) : 0;                                \
            _Pragma("omp simd reduction(+ : after, before, square)")                                                   \
            for (int64_t j = 0; j < last; j += 2) {                                                                    \
                float u0, u1, v0, v1;                                                                                  \
                read_two_##D(a + j, &u0, &u1);                                                                         \
                read_two_##D(b + j, &v0, &v1);                                                                         \
                after += u0 * u0 + u1 * u1;                                                                            \
                before += v0 * v0 + v1 * v1;                                                                           \
                square += (u0 - v0) * (u0 - v0) + (u1 - v1) * (u1 - v1);                                               \
            }                                                                                                          \
            after = sqrtf(after + u * u);                                                                              \
            before = sqrtf(before + v * v);                                                                            \
            square += (u - v) * (u - v);                                                                               \
            float both = after * before, grown = after - before, moved = sqrtf(square);                                \
            float turned = both > 0 ? (square - grown * grown) / (2 * both) : 1;                                       \
            out[i] = !cosine ? (moved > least * before ? moved : 0) : 2 * turned > least * least ? turned : 0;         \
        }                                                                                                              \
    }

/* rows [n, heads], `size` bytes each, the heads of a row side by side and the rows `pitch` bytes apart, to their cells:
 * head h of row i to cell starts[i] + h * apart */
void write_rows(char *cells, const int64_t *starts, const char *rows, int64_t n, int64_t heads, int64_t apart,
                int64_t size, int64_t pitch, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && n * heads * size > 2 * FEW)
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < heads; h++)
            memcpy(cells + (starts[i] + h * apart) * size, rows + i * pitch + h * size, size);
}

static float nth_greatest(float *keys, int64_t n, int64_t rank) { /* the rank-th greatest, 0 first; reorders keys */
    for (int64_t low = 0, high = n - 1;;) {
        float middle = keys[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (keys[i] > middle) i++;
            while (keys[j] < middle) j--;
            if (i > j) break;
            float other = keys[i];
            keys[i++] = keys[j];
            keys[j--] = other;
        }
        if (rank <= j) high = j;
        else if (rank >= i) low = i;
        else return keys[rank];
    }
}

/* index [picks]: the entries of source [n] whose keys, score [.] there + bias [n], are greatest, of equals the first;
 * in the order of source. keys, spare: room for n numbers each */
static void pick_some(const float *score, const int64_t *source, const float *bias, float *keys, float *spare,
                      int64_t n, int64_t picks, int64_t *index) {
    for (int64_t r = 0; r < n; r++) {
        float key = score[source[r]] + bias[r];
        keys[r] = spare[r] = key == key ? key : INFINITY; /* no number comes first, as where they are sorted */
    }
    float least = nth_greatest(spare, n, picks - 1);
    int64_t equals = picks;
    for (int64_t r = 0; r < n; r++) equals -= keys[r] > least;
    for (int64_t r = 0; r < n; r++)
        if (keys[r] > least || (keys[r] == least && equals-- > 0)) *index++ = source[r];
}

/* What `dkv.core.packing.Narrowing.pick` does, for picks [batch] of `rows` carried rows of each sequence: index [n] of those
 * picked, their slots and cells, n - sum of picks of them in sequence 0's scratch slot, `width` */
void pick_rows(const float *score, const int64_t *source, const float *bias, const int64_t *picks, const int64_t *slots,
               int64_t *index, int64_t *slot, int64_t *flat, int64_t n, int64_t batch, int64_t rows, int64_t width) {
    float keys[rows], spare[rows];
    int64_t i = 0;
    for (int64_t s = 0; s < batch; s++) {
        if (!picks[s]) continue;
        pick_some(score, source + s * rows, bias + s * rows, keys, spare, rows, picks[s], index + i);
        for (int64_t end = i + picks[s]; i < end; i++) {
            slot[i] = slots[index[i]];
            flat[i] = s * (width + 1) + slot[i];
        }
    }
    for (; i < n; i++) {
        index[i] = 0;
        slot[i] = flat[i] = width;
    }
}

#define SUM(T, D)                                                                                                      \
    static inline void sum_row_##D(const T *row, const T *more, T *to, int64_t c) { /* to [c], which may be row */     \
        _Pragma("omp simd")                                                                                            \
        for (int64_t j = 0; j < c - 1; j += 2) {                                                                       \
            float x0, x1, a0, a1;                                                                                      \
            read_two_##D(row + j, &x0, &x1);                                                                           \
            read_two_##D(more + j, &a0, &a1);                                                                          \
            write_two_##D(to + j, x0 + a0, x1 + a1);                                                                   \
        }                                                                                                              \
        if (c % 2) to[c - 1] = write_##D(read_##D(row[c - 1]) + read_##D(more[c - 1]));                                \
    }

/* out [n, c] = x [n, c] + more [n, c]; with a weight [c], normed [n, c] = the norm of that; out may be x */
#define ADD(T, D)                                                                                                      \
    void add_##D(const T *x, const T *more, T *out, const T *weight, T *normed, int64_t n, int64_t c, float eps,       \
                 int threads) {                                                                                        \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * c > FEW)")                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            sum_row_##D(x + i * c, more + i * c, out + i * c, c);                                                      \
            if (weight) norm_row_##D(out + i * c, weight, normed + i * c, c, eps);                                     \
        }                                                                                                              \
    }

/* out [n, c] = x [n, c] + what its cell of `kept` at numbers [n] holds. But where own [n] (or null) tells which of the
 * rows one [., c], with `attended` and `more` [., c], it is, and not -1: one + more, and attended + more is kept. out
 * and its norm as in `add` */
#define ONTO(T, D)                                                                                                     \
    void onto_##D(T *kept, const int64_t *numbers, const T *x, const int64_t *own, const T *one, const T *attended,    \
                  const T *more, T *out, const T *weight, T *normed, int64_t n, int64_t c, float eps, int threads) {   \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * c > FEW)")                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            int64_t from = own && own[i] >= 0 ? own[i] * c : -1;                                                       \
            T *cell = kept + numbers[i] * c;                                                                           \
            if (from >= 0) sum_row_##D(attended + from, more + from, cell, c);                                         \
            sum_row_##D(from < 0 ? x + i * c : one + from, from < 0 ? cell : more + from, out + i * c, c);             \
            if (weight) norm_row_##D(out + i * c, weight, normed + i * c, c, eps);                                     \
        }                                                                                                              \
    }

NORM(float, f)
NORM(uint16_t, b)
TURN(float, f)
TURN(uint16_t, b)
RENEW(float, f)
RENEW(uint16_t, b)
SUM(float, f)
SUM(uint16_t, b)
ADD(float, f)
ADD(uint16_t, b)
ONTO(float, f)
ONTO(uint16_t, b)
