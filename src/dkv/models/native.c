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

/* rows [n, heads], `size` bytes each, the heads of a row side by side and the rows `apart` bytes apart, to their cells */
void write_rows(char *cells, const int64_t *numbers, const char *rows, int64_t n, int64_t heads, int64_t size,
                int64_t apart) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < heads; h++)
            memcpy(cells + numbers[i * heads + h] * size, rows + i * apart + h * size, size);
}

NORM(float, f)
NORM(uint16_t, b)
TURN(float, f)
TURN(uint16_t, b)
DRIFT(float, f)
DRIFT(uint16_t, b)
