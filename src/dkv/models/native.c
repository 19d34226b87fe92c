/* The small operations between products, each in one pass over the rows, in float32 whatever the dtype.
 *
 * Plain C in which no inner loop branches, so that compilers make vector instructions of it. Every function stands here
 * for float32 (f) and bfloat16 (b), the upper half of a float32. Rows are contiguous.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define FEW 16384 /* numbers for which more threads cost more than they save */

static inline float read_f(float value) { return value; }
static inline float write_f(float value) { return value; }
static inline float round_f(float value) { return value; }

static inline float read_b(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

/* bits of which the upper half is the nearest, ties to even. What is no number stays none, since those that come of
 * bfloat16 or of arithmetic end in zeros */
static inline uint32_t nearest_b(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits + 0x7fff + ((bits >> 16) & 1);
}

static inline uint16_t write_b(float value) { return (uint16_t)(nearest_b(value) >> 16); }

static inline float round_b(float value) { /* as if written and read again */
    uint32_t bits = nearest_b(value) & 0xffff0000;
    float rounded;
    memcpy(&rounded, &bits, 4);
    return rounded;
}

#define LANES 32 /* numbers summed side by side */

static inline float together(float *sums) { /* of all lanes, pairwise */
    for (int half = LANES / 2; half; half /= 2)
        for (int k = 0; k < half; k++) sums[k] += sums[k + half];
    return sums[0];
}

/* to [c] = row [c] / sqrt(mean of squares + eps), rounded, times weight [c] */
#define NORM(T, D)                                                                                                     \
    static inline void norm_row_##D(const T *row, const T *weight, T *to, int64_t c, float eps) {                      \
        float sums[LANES] = {0};                                                                                       \
        int64_t whole = c / LANES * LANES;                                                                             \
        for (int64_t j = 0; j < whole; j += LANES)                                                                     \
            for (int k = 0; k < LANES; k++) sums[k] += read_##D(row[j + k]) * read_##D(row[j + k]);                    \
        for (int64_t j = whole; j < c; j++) sums[j - whole] += read_##D(row[j]) * read_##D(row[j]);                    \
        float scale = 1 / sqrtf(together(sums) / c + eps);                                                             \
        _Pragma("omp simd")                                                                                            \
        for (int64_t j = 0; j < c; j++)                                                                                \
            to[j] = write_##D(round_##D(read_##D(row[j]) * scale) * read_##D(weight[j]));                              \
    }                                                                                                                  \
                                                                                                                       \
    void norm_##D(const T *x, const T *weight, T *out, int64_t n, int64_t c, float eps, int threads) {                 \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * c > FEW)")                               \
        for (int64_t i = 0; i < n; i++) norm_row_##D(x + i * c, weight, out + i * c, c, eps);                          \
    }

/* x [n, heads, d], channels in pairs, turned in place by phase [n, d / 2, 2]: cos, sin */
#define TURN(T, D)                                                                                                     \
    void turn_##D(T *x, const float *phase, int64_t n, int64_t heads, int64_t d, int threads) {                        \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * heads * d > FEW)")                       \
        for (int64_t i = 0; i < n * heads; i++) {                                                                      \
            T *row = x + i * d;                                                                                        \
            const float *by = phase + i / heads * d;                                                                   \
            _Pragma("omp simd")                                                                                        \
            for (int64_t j = 0; j < d; j += 2) {                                                                       \
                float a = read_##D(row[j]), b = read_##D(row[j + 1]), c = by[j], s = by[j + 1];                        \
                row[j] = write_##D(a * c - b * s);                                                                     \
                row[j + 1] = write_##D(a * s + b * c);                                                                 \
            }                                                                                                          \
        }                                                                                                              \
    }

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

/* adds the squares of a [n], of b [n] and of a - b to those of each lane */
#define COMPARE(T, D)                                                                                                  \
    static inline void compare_##D(const T *a, const T *b, int64_t n, float *afters, float *befores, float *squares) { \
        for (int64_t k = 0; k < n; k++) {                                                                              \
            float u = read_##D(a[k]), v = read_##D(b[k]);                                                              \
            afters[k] += u * u;                                                                                        \
            befores[k] += v * v;                                                                                       \
            squares[k] += (u - v) * (u - v);                                                                           \
        }                                                                                                              \
    }

GATHER(float, f)
GATHER(uint16_t, b)
COMPARE(float, f)
COMPARE(uint16_t, b)

/* out [n]: how far the cells of each row moved to new [n, heads, d], as dkv.drift has it: 1 - cosine, or else the
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
            float afters[LANES] = {0}, befores[LANES] = {0}, squares[LANES] = {0};                                     \
            int64_t c = heads * d, whole = c / LANES * LANES;                                                          \
            for (int64_t j = 0; j < whole; j += LANES)                                                                 \
                compare_##D(a + j, b + j, LANES, afters, befores, squares);                                            \
            compare_##D(a + whole, b + whole, c - whole, afters, befores, squares);                                    \
            float after = sqrtf(together(afters)), before = sqrtf(together(befores)), square = together(squares);      \
            float both = after * before, grown = after - before, moved = sqrtf(square);                                \
            float turned = both > 0 ? (square - grown * grown) / (2 * both) : 1;                                       \
            out[i] = !cosine ? (moved > least * before ? moved : 0) : 2 * turned > least * least ? turned : 0;         \
        }                                                                                                              \
    }

static inline float exponential(float x) { /* of x <= 0, to a few units in the last place; 0 below the normal numbers */
    float n = x * 1.44269504f + 12582912.0f - 12582912.0f; /* to the nearest whole number */
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float power = 4.1666668e-2f + r * (8.3333333e-3f + r * 1.3888889e-3f);
    power = 1 + r * (1 + r * (0.5f + r * (1.6666667e-1f + r * power)));
    int32_t bits = ((int32_t)(n < -126 ? -126 : n) + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return x < -87 ? 0 : power * scale;
}

/* Of x [n]: the greatest, `least` at least; where `value` is first, n = nowhere; the sum of exp(x - top) */
#define LOGITS(T, D)                                                                                                   \
    static float greatest_##D(const T *x, int64_t n, float least) {                                                    \
        float top = least;                                                                                             \
        _Pragma("omp simd reduction(max : top)")                                                                       \
        for (int64_t j = 0; j < n; j++) top = read_##D(x[j]) > top ? read_##D(x[j]) : top;                             \
        return top;                                                                                                    \
    }                                                                                                                  \
                                                                                                                       \
    static int64_t first_##D(const T *x, int64_t n, float value) {                                                     \
        int64_t at = 0;                                                                                                \
        for (; at + 64 <= n; at += 64) {                                                                               \
            int found = 0;                                                                                             \
            _Pragma("omp simd reduction(| : found)")                                                                   \
            for (int64_t j = 0; j < 64; j++) found |= read_##D(x[at + j]) == value;                                    \
            if (found) break;                                                                                          \
        }                                                                                                              \
        while (at < n && read_##D(x[at]) != value) at++;                                                               \
        return at;                                                                                                     \
    }                                                                                                                  \
                                                                                                                       \
    static double exponentials_##D(const T *x, int64_t n, float top) {                                                 \
        double sum = 0;                                                                                                \
        for (int64_t start = 0; start < n; start += 1024) {                                                            \
            int64_t end = start + 1024 < n ? start + 1024 : n;                                                         \
            float part = 0;                                                                                            \
            _Pragma("omp simd reduction(+ : part)")                                                                    \
            for (int64_t j = start; j < end; j++) part += exponential(read_##D(x[j]) - top);                           \
            sum += part;                                                                                               \
        }                                                                                                              \
        return sum;                                                                                                    \
    }

/* token [n]: the first of the greatest of each row of logits [n, v], `mask` aside; confidence [n]: its log-probability,
 * as dkv.sampling.log_confidence has it */
#define BEST(T, D)                                                                                                     \
    void best_##D(const T *logits, int64_t *token, float *confidence, int64_t n, int64_t v, int64_t mask,              \
                  int threads) {                                                                                       \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * v > FEW)")                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T *row = logits + i * v, *after = row + mask + 1;                                                    \
            int64_t others = v - mask - 1;                                                                             \
            float barred = read_##D(row[mask]);                                                                        \
            float best = greatest_##D(after, others, greatest_##D(row, mask, -INFINITY));                              \
            int64_t before = first_##D(row, mask, best);                                                               \
            int64_t at = before < mask ? before : mask + 1 + first_##D(after, others, best);                           \
            at = at < v ? at : mask ? 0 : 1; /* no number is any greatest */                                           \
            float top = barred > best ? barred : best;                                                                 \
            int64_t highest = barred > best ? mask : at;                                                               \
            double sum = exponentials_##D(row, highest, top);                                                          \
            sum += exponentials_##D(row + highest + 1, v - highest - 1, top);                                          \
            token[i] = at;                                                                                             \
            confidence[i] = best - top - (float)log1p(sum);                                                            \
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

/* What `dkv.place.Narrowing.pick` does, for picks [batch] of `rows` carried rows of each sequence: index [n] of those
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

/* out [n, c] = x [n, c] + one [., c] at numbers [n], rounded, + other [., c] there; with a weight [c], normed [n, c] =
 * the norm of that */
#define ONTO(T, D)                                                                                                     \
    void onto_##D(const T *one, const T *other, const int64_t *numbers, const T *x, T *out, const T *weight,           \
                  T *normed, int64_t n, int64_t c, float eps, int threads) {                                           \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * c > FEW)")                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T *row = x + i * c, *a = one + numbers[i] * c, *b = other + numbers[i] * c;                          \
            T *to = out + i * c;                                                                                       \
            _Pragma("omp simd")                                                                                        \
            for (int64_t j = 0; j < c; j++)                                                                            \
                to[j] = write_##D(round_##D(read_##D(a[j]) + read_##D(row[j])) + read_##D(b[j]));                      \
            if (weight) norm_row_##D(to, weight, normed + i * c, c, eps);                                              \
        }                                                                                                              \
    }

/* out [n, c] = x [n, c] + more [n, c], and its norm likewise; out may be x */
#define ADD(T, D)                                                                                                      \
    void add_##D(const T *x, const T *more, T *out, const T *weight, T *normed, int64_t n, int64_t c, float eps,       \
                 int threads) {                                                                                        \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * c > FEW)")                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T *row = x + i * c, *a = more + i * c;                                                               \
            T *to = out + i * c;                                                                                       \
            _Pragma("omp simd")                                                                                        \
            for (int64_t j = 0; j < c; j++) to[j] = write_##D(read_##D(row[j]) + read_##D(a[j]));                      \
            if (weight) norm_row_##D(to, weight, normed + i * c, c, eps);                                              \
        }                                                                                                              \
    }

LOGITS(float, f)
LOGITS(uint16_t, b)
BEST(float, f)
BEST(uint16_t, b)
NORM(float, f)
NORM(uint16_t, b)
TURN(float, f)
TURN(uint16_t, b)
RENEW(float, f)
RENEW(uint16_t, b)
ONTO(float, f)
ONTO(uint16_t, b)
ADD(float, f)
ADD(uint16_t, b)
