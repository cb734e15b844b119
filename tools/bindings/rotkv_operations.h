#pragma once
/* Operations on the caller's arrays. What rotkv.h says holds here.
 * Docs: docs/25-bindings.md */
#include "rotkv_backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A window on the caller's memory. All n 0: not there. Extents count elements, the last is the
 * innermost, missing leading ones are 1. Strides in bytes, never negative; all 0: packed; the last
 * is one element or one block. `bytes` is what may be read or written from data on. */
typedef struct rotkv_array {
    void* data;
    size_t bytes;
    int32_t type;
    int64_t n[4];
    int64_t stride[4];
} rotkv_array;

/* Letters of shapes: T tokens, H query heads, K KV heads, S streams, C cells, E width, V words.
 * Exact, equal on every backend to the byte: what turns, quantizes and stores. */

/* dst, src [..][D] f32, f16 or bf16, one type; dst may be src. inverse not 0: x = S H y. */
ROTKV_API rotkv_status rotkv_hadamard(rotkv_backend* backend, const rotkv_rotation* rotation,
                                      int32_t inverse, const rotkv_array* dst,
                                      const rotkv_array* src);
ROTKV_API rotkv_status rotkv_quantize(rotkv_backend* backend, const rotkv_array* dst,
                                      const rotkv_array* src); /* f32 to a cache type */
ROTKV_API rotkv_status rotkv_dequantize(rotkv_backend* backend, const rotkv_array* dst,
                                        const rotkv_array* src); /* any type to f32 */

/* How positions become angles, as ggml_rope_ext has it. What is 0 has the value behind it. */
enum { ROTKV_PAIRS_NORM = 0, ROTKV_PAIRS_NEOX = 1 }; /* (2i, 2i + 1), (i, i + n_rot / 2) */
typedef struct rotkv_rope_config {
    size_t size;
    int32_t pairs;
    int64_t n_rot;                  /* channels that turn: even, at most D */
    double base;                    /* 10000 */
    const float* frequency_factors; /* [n_rot / 2] divisors of the angles, or NULL */
    double linear_factor;           /* 1 */
    double yarn_ext_factor;         /* 0: no YaRN */
    double yarn_attn_factor, yarn_beta_fast, yarn_beta_slow; /* 1, 32, 1 */
    int64_t original_context; /* this and both betas: of YaRN alone */
} rotkv_rope_config;

/* dst, src [T][heads][D] f32, dst may be src; positions [T]. */
ROTKV_API rotkv_status rotkv_rope(rotkv_backend* backend, const rotkv_rope_config* config,
                                  const rotkv_array* dst, const rotkv_array* src,
                                  const int32_t* positions, size_t n_positions);

/* Rotates, quantizes and scatters rows into a cache of nine types. */
typedef struct rotkv_kv_store_args {
    size_t size;
    rotkv_array k_cache, v_cache; /* [S][C][K][Dk], [S][C][K][Dv] */
    rotkv_array k, v;             /* [T][K][Dk], [T][K][Dv] f32, position already in (RoPE) */
    const int32_t* stream;        /* [T], or NULL: 0 */
    const int32_t* cell;          /* [T], no two alike; -1: not stored */
    rotkv_rotation k_rotation, v_rotation;
} rotkv_kv_store_args;
ROTKV_API rotkv_status rotkv_kv_store(rotkv_backend* backend, const rotkv_kv_store_args* args);

/* o = sum_c p_c v_c, p = softmax over visible cells of softcap(scale q . k_c); q is rotated and o
 * rotated back inside. Visible: 0 <= pos_c <= pos_q, with a window n also pos_q - pos_c < n (or,
 * chunked, pos_c >= floor(pos_q / n) n), and pos_c and the distance pos_q - pos_c within bounds. No
 * such cell: 0. Rounded within a bound (docs/05-attention.md). */
typedef struct rotkv_attention_args {
    size_t size;
    rotkv_array dst;              /* [T][H][Dv] f32 */
    rotkv_array lse;              /* [T][H] f32: log of what softmax divides by, or not there */
    rotkv_array q;                /* [T][H][Dk] f32, H a multiple of K */
    rotkv_array k_cache, v_cache; /* [S][C][K][Dk], [S][C][K][Dv] */
    rotkv_array sinks;            /* [H] f32, or not there */
    const int32_t* position;      /* [S][C]; -1: an empty cell */
    const int32_t* q_stream;      /* [T], or NULL: 0 */
    const int32_t* q_position;    /* [T]; -1: sees nothing */
    float scale, softcap;         /* usually 1 / sqrt(Dk), 0 is 0; c > 0: c tanh(score / c) */
    int64_t window;               /* 0: none */
    int32_t chunked;              /* of a window */
    int64_t position_from, position_to, distance_from, distance_to; /* from <= x < to; 0: no end */
    rotkv_rotation k_rotation, v_rotation;
    int32_t f16; /* 1: in f16 where the backend can, else UNSUPPORTED; 0: in f32 */
} rotkv_attention_args;
ROTKV_API rotkv_status rotkv_attention(rotkv_backend* backend, const rotkv_attention_args* args);

/* Moves the keys of cells by difference [S][C] positions, 0: they stay. k_cache [S][C][K][D]. */
ROTKV_API rotkv_status rotkv_kv_shift(rotkv_backend* backend, const rotkv_array* k_cache,
                                      const int32_t* difference, const rotkv_rope_config* config,
                                      const rotkv_rotation* rotation);

/* Negative log-likelihood of each row's target, in nats: hidden [T][E] f32, weight [V][E] any
 * weight type, target [T]; nll [T]; top [T], or NULL: the likeliest word, the first of equals. */
ROTKV_API rotkv_status rotkv_nll(rotkv_backend* backend, const rotkv_array* hidden,
                                 const rotkv_array* weight, float softcap, const int32_t* target,
                                 double* nll, int32_t* top);

/* sum_v p_a (log p_a - log p_b) in nats, a the reference; kld [T]. */
ROTKV_API rotkv_status rotkv_kld(rotkv_backend* backend, const rotkv_array* hidden_a,
                                 const rotkv_array* hidden_b, const rotkv_array* weight,
                                 float softcap, double* kld);

/* The same of logits [rows][words], in f64. A row that is not all numbers has NaN. */
ROTKV_API rotkv_status rotkv_nll_of_logits(const float* logits, int64_t rows, int64_t words,
                                           const int32_t* target, double* nll);
ROTKV_API rotkv_status rotkv_kld_of_logits(const float* a, const float* b, int64_t rows,
                                           int64_t words, double* kld);

#ifdef __cplusplus
}
#endif
