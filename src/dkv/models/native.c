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

static inline float read_b(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

static inline uint16_t write_b(float value) { /* to the nearest, ties to even; NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (uint16_t)nearest;
}

/* out [n, c] = x [n, c] / sqrt(mean of squares + eps), rounded, times weight [c] */
#define NORM(T, D)                                                                                                     \
    void norm_##D(const T *x, const T *weight, T *out, int64_t n, int64_t c, float eps, int threads) {                 \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * c > FEW)")                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T *row = x + i * c;                                                                                  \
            T *to = out + i * c;                                                                                       \
            float sum = 0;                                                                                             \
            _Pragma("omp simd reduction(+ : sum)")                                                                     \
            for (int64_t j = 0; j < c; j++) sum += read_##D(row[j]) * read_##D(row[j]);                                \
            float scale = 1 / sqrtf(sum / c + eps);                                                                    \
            _Pragma("omp simd")                                                                                        \
            for (int64_t j = 0; j < c; j++)                                                                            \
                to[j] = write_##D(read_##D(write_##D(read_##D(row[j]) * scale)) * read_##D(weight[j]));                \
        }                                                                                                              \
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

/* out [n]: how far old [n, c] moved to new [n, c], as dkv.drift has it: 1 - cosine, or else the distance; what is less
 * than `least` of the length is rounding */
#define DRIFT(T, D)                                                                                                    \
    void drift_##D(const T *new, const T *old, float *out, int64_t n, int64_t c, int cosine, float least,              \
                   int threads) {                                                                                      \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * c > FEW)")                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T *a = new + i * c, *b = old + i * c;                                                                \
            float after = 0, before = 0, square = 0;                                                                   \
            _Pragma("omp simd reduction(+ : after, before, square)")                                                   \
            for (int64_t j = 0; j < c; j++) {                                                                          \
                float u = read_##D(a[j]), v = read_##D(b[j]);                                                          \
                after += u * u;                                                                                        \
                before += v * v;                                                                                       \
                square += (u - v) * (u - v);                                                                           \
            }                                                                                                          \
            after = sqrtf(after);                                                                                      \
            before = sqrtf(before);                                                                                    \
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

static float greatest(const float *x, int64_t n, float least) {
    float top = least;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < n; j++) top = x[j] > top ? x[j] : top;
    return top;
}

static int64_t first(const float *x, int64_t n, float value) { /* where it is first, n = nowhere */
    int64_t at = 0;
    for (; at + 64 <= n; at += 64) {
        int found = 0;
#pragma omp simd reduction(| : found)
        for (int64_t j = 0; j < 64; j++) found |= x[at + j] == value;
        if (found) break;
    }
    while (at < n && x[at] != value) at++;
    return at;
}

static double exponentials(const float *x, int64_t n, float top) { /* the sum of exp(x - top) */
    double sum = 0;
    for (int64_t start = 0; start < n; start += 1024) {
        int64_t end = start + 1024 < n ? start + 1024 : n;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t j = start; j < end; j++) part += exponential(x[j] - top);
        sum += part;
    }
    return sum;
}

/* token [n]: the first of the greatest of each row of logits [n, v], `mask` aside; confidence [n]: its log-probability,
 * as dkv.sampling.log_confidence has it */
void best_f(const float *logits, int64_t *token, float *confidence, int64_t n, int64_t v, int64_t mask, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && n * v > FEW)
    for (int64_t i = 0; i < n; i++) {
        const float *row = logits + i * v;
        float best = greatest(row + mask + 1, v - mask - 1, greatest(row, mask, -INFINITY));
        int64_t before = first(row, mask, best);
        int64_t at = before < mask ? before : mask + 1 + first(row + mask + 1, v - mask - 1, best);
        at = at < v ? at : mask ? 0 : 1; /* no number is any greatest */
        float top = row[mask] > best ? row[mask] : best;
        int64_t highest = row[mask] > best ? mask : at;
        double others = exponentials(row, highest, top) + exponentials(row + highest + 1, v - highest - 1, top);
        token[i] = at;
        confidence[i] = best - top - (float)log1p(others);
    }
}

/* rows [n, heads], `size` bytes each, the heads of a row side by side and the rows `apart` bytes apart, to their cells */
void write_rows(char *cells, const int64_t *numbers, const char *rows, int64_t n, int64_t heads, int64_t size,
                int64_t apart) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < heads; h++)
            memcpy(cells + numbers[i * heads + h] * size, rows + i * apart + h * size, size);
}

/* out [n, c] = x [n, c] + cells [., c] at numbers [n] */
#define ONTO(T, D)                                                                                                     \
    void onto_##D(const T *cells, const int64_t *numbers, const T *x, T *out, int64_t n, int64_t c, int threads) {     \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * c > FEW)")                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T *row = x + i * c, *held = cells + numbers[i] * c;                                                  \
            T *to = out + i * c;                                                                                       \
            _Pragma("omp simd")                                                                                        \
            for (int64_t j = 0; j < c; j++) to[j] = write_##D(read_##D(held[j]) + read_##D(row[j]));                   \
        }                                                                                                              \
    }

NORM(float, f)
NORM(uint16_t, b)
TURN(float, f)
TURN(uint16_t, b)
DRIFT(float, f)
DRIFT(uint16_t, b)
ONTO(float, f)
ONTO(uint16_t, b)
