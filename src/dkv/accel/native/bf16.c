/* Numbers as floats and back, one and two at a time: float32 (f), and bfloat16 (b), the upper half of a float32. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the first of two numbers is taken for the lower half of a word"
#endif

#define FEW 16384 /* numbers for which more threads cost more than they save */

static inline float read_f(float value) { return value; }
static inline float write_f(float value) { return value; }
static inline float round_f(float value) { return value; }

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline float read_b(uint16_t value) { return float_of((uint32_t)value << 16); }

/* bits of which the upper half is the nearest, ties to even. What is no number stays none, since those that come of
 * bfloat16 or of arithmetic end in zeros */
static inline uint32_t nearest_b(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits + 0x7fff + ((bits >> 16) & 1);
}

static inline uint16_t write_b(float value) { return (uint16_t)(nearest_b(value) >> 16); }

static inline float round_b(float value) { /* as if written and read again */
    return float_of(nearest_b(value) & 0xffff0000);
}

/* x [2] as floats: two bfloat16 numbers are a word that a shift and a mask split, so that vectors of them need no
 * shuffles */
static inline void read_two_f(const float *x, float *a, float *b) {
    *a = x[0];
    *b = x[1];
}

static inline void write_two_f(float *to, float a, float b) {
    to[0] = a;
    to[1] = b;
}

static inline void read_two_b(const uint16_t *x, float *a, float *b) {
    uint32_t word;
    memcpy(&word, x, 4);
    *a = float_of(word << 16);
    *b = float_of(word & 0xffff0000);
}

static inline void write_two_b(uint16_t *to, float a, float b) {
    uint32_t word = nearest_b(a) >> 16 | (nearest_b(b) & 0xffff0000);
    memcpy(to, &word, 4);
}
