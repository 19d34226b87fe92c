/* The most likely token of each row of logits, and its log-probability.
 *
 * Plain C in which no inner loop branches, so that compilers make vector instructions of it. Every function stands here
 * for float32 (f) and bfloat16 (b), the upper half of a float32.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define FEW 16384 /* numbers for which more threads cost more than they save */

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline float read_f(float value) { return value; }
static inline float read_b(uint16_t value) { return float_of((uint32_t)value << 16); }

static inline float exponential(float x) { /* of x <= 0, to a few units in the last place; 0 below the normal numbers */
    float n = x * 1.44269504f + 12582912.0f - 12582912.0f; /* to the nearest whole number */
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float power = 4.1666668e-2f + r * (8.3333333e-3f + r * 1.3888889e-3f);
    power = 1 + r * (1 + r * (0.5f + r * (1.6666667e-1f + r * power)));
    float scale = float_of((uint32_t)((int32_t)(n < -126 ? -126 : n) + 127) << 23);
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
 * as dkv.core.sampling.log_confidence has it */
#define ARGMAX(T, D)                                                                                                   \
    void argmax_with_logprob_##D(const T *logits, int64_t *token, float *confidence, int64_t n, int64_t v,             \
                                 int64_t mask, int threads) {                                                          \
        _Pragma("omp parallel for num_threads(threads) if (threads > 1 && n * v > FEW)")                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T *row = logits + i * v, *after = row + mask + 1;                                                    \
            int64_t others = v - mask - 1;                                                                             \
            float barred = read_##D(row[mask]);                                                                        \
            float value = greatest_##D(after, others, greatest_##D(row, mask, -INFINITY));                             \
            int64_t before = first_##D(row, mask, value);                                                              \
            int64_t at = before < mask ? before : mask + 1 + first_##D(after, others, value);                          \
            at = at < v ? at : mask ? 0 : 1; /* no number is any greatest */                                           \
            float top = barred > value ? barred : value;                                                               \
            int64_t highest = barred > value ? mask : at;                                                              \
            double sum = exponentials_##D(row, highest, top);                                                          \
            sum += exponentials_##D(row + highest + 1, v - highest - 1, top);                                          \
            token[i] = at;                                                                                             \
            confidence[i] = value - top - (float)log1p(sum);                                                           \
        }                                                                                                              \
    }

LOGITS(float, f)
LOGITS(uint16_t, b)
ARGMAX(float, f)
ARGMAX(uint16_t, b)
