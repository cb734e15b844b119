#pragma once
/* Status and errors, element types, cache types by name, rotations. What rotkv.h says holds here.
 * Docs: docs/25-bindings.md */
#include <stddef.h>
#include <stdint.h>

#define ROTKV_API __attribute__((visibility("default")))
#ifdef __cplusplus
extern "C" {
#endif

typedef enum rotkv_status {
    ROTKV_OK = 0,
    ROTKV_BAD_ARGUMENT = 1, /* null, out of range, shapes or types that nothing could accept */
    ROTKV_UNSUPPORTED = 2,  /* well formed, but this backend, model or format is not handled */
    ROTKV_BAD_FILE = 3,     /* bytes that do not follow their format */
    ROTKV_IO = 4,           /* the operating system refused */
    ROTKV_USAGE = 5,        /* words that contradict each other, or that are not known */
    ROTKV_NO_MEMORY = 6,
    ROTKV_CANCELLED = 7, /* a callback asked for it */
    ROTKV_INTERNAL = 8   /* a fault of rotkv's own */
} rotkv_status;

ROTKV_API const char* rotkv_version(void); /* "0.1.0 (065aefcbdd12)": and the commit */
ROTKV_API const char* rotkv_status_name(int status);
/* Of the calling thread's latest call, "" if that was good; until its next call. */
ROTKV_API const char* rotkv_last_error(void);

/* Element types: GGUF's numbers (ggml_type). Caches take the first nine; weights these and those
 * that rotkv_type_number() knows by name: q2_K .. q6_K, iq4_xs, mxfp4. */
enum {
    ROTKV_F32 = 0,
    ROTKV_F16 = 1,
    ROTKV_BF16 = 30,
    ROTKV_Q8_0 = 8,
    ROTKV_Q5_1 = 7,
    ROTKV_Q5_0 = 6,
    ROTKV_Q4_1 = 3,
    ROTKV_Q4_0 = 2,
    ROTKV_IQ4_NL = 20,
    ROTKV_I32 = 26,
    ROTKV_F64 = 28
};
ROTKV_API rotkv_status rotkv_type_number(const char* name, int32_t* type);

/* Everything that a side of a cache can be kept in, by name: the nine types, then the formats of
 * the zoo, which have no number ("tqmse3", "exl3:4": docs/20-zoo.md). NULL from the count on. */
ROTKV_API size_t rotkv_cache_type_count(void);
ROTKV_API const char* rotkv_cache_type_name(size_t index);

/* Bytes of a row of d values with all scales, and 8 bytes / d. UNSUPPORTED: no such row. */
ROTKV_API rotkv_status rotkv_row_bytes(const char* cache_type, int64_t d, int64_t* bytes);
ROTKV_API rotkv_status rotkv_bits_per_value(const char* cache_type, int64_t d, double* bits);

/* Rows of any cache type by name. x [rows][d] f32, codes [rows][row bytes], positions [rows], or
 * NULL: 0, of the tokens that the rows belong to; layer, kv_head, side (0: K, 1: V) of them all:
 * formats may differ by them, or take groups of rows. decode(encode(x)) is what attention reads. */
typedef struct rotkv_rows {
    size_t size;
    int64_t rows, d, layer, kv_head;
    int32_t side;
    const int32_t* positions;
} rotkv_rows;
ROTKV_API rotkv_status rotkv_encode(const char* cache_type, const rotkv_rows* rows, const float* x,
                                    void* codes, size_t codes_bytes);
ROTKV_API rotkv_status rotkv_decode(const char* cache_type, const rotkv_rows* rows,
                                    const void* codes, size_t codes_bytes, float* x);

/* y = H S x on blocks of channels, H the normalized Hadamard matrix, S the signs of `seed`. */
enum { ROTKV_NOT_ROTATED = 0, ROTKV_SYLVESTER = 1, ROTKV_SIGNS = 2 };
typedef struct rotkv_rotation {
    int32_t kind;
    int64_t block; /* a power of two that divides the head size */
    uint64_t seed; /* of ROTKV_SIGNS */
    int64_t first; /* channel of the head where a row starts; 0 unless V lies inside K */
} rotkv_rotation;

/* "none", "64", "64:7" (the signs of seed 7). */
ROTKV_API rotkv_status rotkv_rotation_of_words(const char* words, rotkv_rotation* rotation);
ROTKV_API rotkv_status rotkv_words_of_rotation(const rotkv_rotation* rotation, char* text,
                                               size_t capacity, size_t* length);

/* What rotates in a cache of these words, and why: those of rotkv-kld --variant, as in
 * "k=q4_0,v=q8_0,rot=off", but for first, recent, ends, kbias and matrices, which need a model. A
 * side that is not named is f16, rotation what the environment and llama.cpp's rule say. The text
 * has a line a side of d_k or d_v channels: "K q8_0: rotation sylvester, block 64 (policy: ...)" */
ROTKV_API rotkv_status rotkv_policy(const char* cache_words, int64_t d_k, int64_t d_v,
                                    rotkv_rotation* k, rotkv_rotation* v, char* text,
                                    size_t capacity, size_t* length);

#ifdef __cplusplus
}
#endif
