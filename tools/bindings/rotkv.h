#pragma once
/* rotkv for programs in C, and for every language that calls C: operations of a rotated, quantized
 * cache on the caller's arrays, caches, models, and the figures that they are measured by.
 *
 * Status. Every function that can fail returns one; what it should have written is then undefined,
 *   but for sizes that say how much room is needed. rotkv_last_error() says in one line what was
 *   expected and what was found, in the same words as rotkv's programs.
 * Handles are opaque. They are closed in any order, once each; closing NULL does nothing. What one
 *   handle needs of another (a cache its model) lives on until both are closed.
 * Threads. Any function may be called from any thread. Calls on one backend, a model on it and
 *   caches on it take turns: the later one waits. A callback must not call what it was called from;
 *   that is an error, not a deadlock. Different handles run at once.
 * Arrays are the caller's, on the host; a device's backend copies them there and back. They may not
 *   overlap unless a function says so.
 * Texts are UTF-8 and end in 0. A text that is given out goes to `text`, with its 0, if `capacity`
 *   bytes hold it; `length` is set to its length without the 0 in any case. With `text` NULL and
 *   `capacity` 0 the length is asked for. One of `text` and `length` may be NULL.
 * Structs that begin with `size` want sizeof of themselves there: later versions may add fields.
 * Denormal numbers are IEEE's during a call, whatever the processor was set to; it is set back.
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

/* ---- types, formats, rotations --------------------------------------------------------------- */
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

/* ---- backends -------------------------------------------------------------------------------- */
typedef struct rotkv_backend rotkv_backend;

/* All that exist, built or not; NULL from the count on. In words: a line for each, as in
 * "fast   AVX-512, 2 threads" or "cuda   not built: reason". */
ROTKV_API size_t rotkv_backend_count(void);
ROTKV_API const char* rotkv_backend_name(size_t index);
ROTKV_API rotkv_status rotkv_backends_in_words(char* text, size_t capacity, size_t* length);

/* name NULL or "": ROTKV_BACKEND of the environment, else "fast". threads: 1 .. 1024, or 0: all
 * cores. Wherever a function takes a backend, NULL is the calling thread's own "ref". */
ROTKV_API rotkv_status rotkv_backend_open(const char* name, int32_t threads,
                                          rotkv_backend** backend);
ROTKV_API void rotkv_backend_close(rotkv_backend* backend);
ROTKV_API rotkv_status rotkv_backend_in_words(rotkv_backend* backend, char* text, size_t capacity,
                                              size_t* length);

/* Known mistakes of engines, a line each: "v-not-back   the output is not rotated back". A backend
 * of the host's makes one in every kv_store, kv_shift and attention. Docs: docs/29-judge.md */
ROTKV_API rotkv_status rotkv_mistakes_in_words(char* text, size_t capacity, size_t* length);
ROTKV_API rotkv_status rotkv_backend_open_mistaken(const char* name, int32_t threads,
                                                   const char* mistake, rotkv_backend** backend);

/* The table of cases, and one by its name, in the table or not, judged against "ref". Outcomes:
 * 0 ok, 1 failed, 2 refused by the backend, 3 no device. bound_used, if not NULL: the largest
 * |error| / bound. The text is a reason, or what is wrong. Docs: docs/10-testing-your-engine.md */
ROTKV_API size_t rotkv_case_count(void);
ROTKV_API const char* rotkv_case_name(size_t index);
ROTKV_API rotkv_status rotkv_case_run(rotkv_backend* backend, const char* name, int32_t* outcome,
                                      double* bound_used, char* text, size_t capacity,
                                      size_t* length);

/* ---- operations on arrays -------------------------------------------------------------------- */
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
    int64_t original_context;
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
    int32_t chunked;
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

/* ---- caches ---------------------------------------------------------------------------------- */
typedef struct rotkv_cache rotkv_cache;
/* A cache of equal layers, its cells empty; or, below, one for a model. */
typedef struct rotkv_cache_shape {
    size_t size;
    int64_t streams, cells, layers, kv_heads, d_k, d_v; /* cells of each stream */
} rotkv_cache_shape;
ROTKV_API rotkv_status rotkv_cache_open(rotkv_backend* backend, const rotkv_cache_shape* shape,
                                        const char* cache_words, rotkv_cache** cache);
ROTKV_API void rotkv_cache_close(rotkv_cache* cache);

/* Types, rotations and why, bytes per token. */
ROTKV_API rotkv_status rotkv_cache_in_words(rotkv_cache* cache, char* text, size_t capacity,
                                            size_t* length);

/* Gives T tokens their cells: the batch of the next calls to store and attend. streams NULL: 0. */
ROTKV_API rotkv_status rotkv_cache_place(rotkv_cache* cache, const int32_t* streams,
                                         const int32_t* positions, int64_t tokens);

/* Rows of the batch, k [T][K][Dk], v [T][K][Dv] f32, position in; v NULL where V lies in K. */
ROTKV_API rotkv_status rotkv_cache_store(rotkv_cache* cache, int64_t layer, const rotkv_array* k,
                                         const rotkv_array* v);

/* The batch's queries over all that is stored: dst [T][H][Dv], q [T][H][Dk], lse [T][H] or NULL. */
ROTKV_API rotkv_status rotkv_cache_attend(rotkv_cache* cache, int64_t layer, const rotkv_array* dst,
                                          const rotkv_array* lse, const rotkv_array* q, float scale,
                                          float softcap, int64_t window);

/* Moves the tokens of a stream at positions [from, to) by `difference` and turns their keys; config
 * NULL: the model's, of a model's cache. Then: empties such cells; empties all. */
ROTKV_API rotkv_status rotkv_cache_shift(rotkv_cache* cache, int64_t stream, int32_t from,
                                         int32_t to, int32_t difference,
                                         const rotkv_rope_config* config);
ROTKV_API rotkv_status rotkv_cache_remove(rotkv_cache* cache, int64_t stream, int32_t from,
                                          int32_t to);
ROTKV_API rotkv_status rotkv_cache_clear(rotkv_cache* cache);
/* Positions of a stream's cells, up to the last one in use; -1: empty. And the bytes of these
 * cells, [cell][kv head][row bytes], side 0: K, 1: V. */
ROTKV_API rotkv_status rotkv_cache_positions(rotkv_cache* cache, int64_t stream, int32_t* positions,
                                             int64_t capacity, int64_t* count);
ROTKV_API rotkv_status rotkv_cache_bytes(rotkv_cache* cache, int64_t layer, int64_t stream,
                                         int32_t side, uint8_t* bytes, int64_t capacity,
                                         int64_t* count);

/* Saved caches carry shape, types and rotation, and load() takes only what is alike (docs/04). */
ROTKV_API rotkv_status rotkv_cache_save(rotkv_cache* cache, const char* path);
ROTKV_API rotkv_status rotkv_cache_load(rotkv_cache* cache, const char* path);

/* ---- models ---------------------------------------------------------------------------------- */
typedef struct rotkv_model rotkv_model;
/* A GGUF file with its vocabulary, its weights on the backend. Then the same in a precision, as
 * "gemm=bf16,attention=f16": what products with weights are rounded to, and attention; else f32. */
ROTKV_API rotkv_status rotkv_model_open(rotkv_backend* backend, const char* path,
                                        rotkv_model** model);
ROTKV_API rotkv_status rotkv_model_open_in(rotkv_backend* backend, const char* path,
                                           const char* precision, rotkv_model** model);
ROTKV_API void rotkv_model_close(rotkv_model* model);

typedef struct rotkv_model_figures {
    size_t size;
    int64_t words, width, layers, trained_context;
    int32_t bos, eos; /* -1: none */
} rotkv_model_figures;
ROTKV_API rotkv_status rotkv_model_describe(rotkv_model* model, rotkv_model_figures* figures);

/* The tokens behind which a text is over: EOS, "<|im_end|>" and their like. */
ROTKV_API rotkv_status rotkv_model_ends(rotkv_model* model, int32_t* tokens, int64_t capacity,
                                        int64_t* count);
/* A text of the file's keys ("tokenizer.chat_template"; BAD_FILE where there is none), and what was
 * assumed of the file, a line each. */
ROTKV_API rotkv_status rotkv_model_text(rotkv_model* model, const char* key, char* text,
                                        size_t capacity, size_t* length);
ROTKV_API rotkv_status rotkv_model_notices(rotkv_model* model, char* text, size_t capacity,
                                           size_t* length);

/* text: `bytes` bytes. add_special: BOS and EOS as the vocabulary asks; parse_special: control
 * tokens are found in the text. Detokenize gives bytes, which may hold a 0. */
ROTKV_API rotkv_status rotkv_tokenize(rotkv_model* model, const char* text, size_t bytes,
                                      int32_t add_special, int32_t parse_special, int32_t* tokens,
                                      int64_t capacity, int64_t* count);
ROTKV_API rotkv_status rotkv_detokenize(rotkv_model* model, const int32_t* tokens, int64_t count,
                                        char* text, size_t capacity, size_t* length);
ROTKV_API rotkv_status rotkv_model_cache(rotkv_model* model, const char* cache_words,
                                         int64_t streams, int64_t cells, rotkv_cache** cache);

/* Reads tokens into a model's cache. hidden [T][E] f32: the residual stream after the output norm,
 * or NULL. streams NULL: 0; positions 0 .. cells - 1. */
ROTKV_API rotkv_status rotkv_model_forward(rotkv_cache* cache, const int32_t* tokens,
                                           const int32_t* streams, const int32_t* positions,
                                           int64_t count, const rotkv_array* hidden);

/* Reads tokens likewise, and chooses what comes behind those that `behind` numbers. temperature 0:
 * the likeliest word, the first of equals; else the first v with sum_{w <= v} p_w^(1/T) >
 * u sum_w p_w^(1/T), u in [0, 1) of draws. BAD_FILE: read, but logits are not finite. */
ROTKV_API rotkv_status rotkv_model_next_tokens(rotkv_cache* cache, const int32_t* tokens,
                                               const int32_t* streams, const int32_t* positions,
                                               int64_t count, const int32_t* behind,
                                               int64_t n_behind, double temperature,
                                               const double* draws, int32_t* chosen);

/* logits [T][V] f32 of hidden [T][E] f32, the final softcap included. Both packed. */
ROTKV_API rotkv_status rotkv_model_logits(rotkv_model* model, const rotkv_array* hidden,
                                          const rotkv_array* logits);

/* log p(token[i + 1] | token[0 .. i]) in nats for i = 0 .. count - 2, with such a cache; top, or
 * NULL: the likeliest word at each of these places. */
ROTKV_API rotkv_status rotkv_logprobs(rotkv_model* model, const char* cache_words,
                                      const int32_t* tokens, int64_t count, double* logprob,
                                      int32_t* top);

/* Not 0: stop, with ROTKV_CANCELLED. Asked after each group of windows, or each token. */
typedef int32_t (*rotkv_progress)(void* user, int64_t done, int64_t all);

/* How rotkv-perplexity cuts a text: -c, -b, --chunks. 0: 512, 2048 in whole windows, all. */
typedef struct rotkv_windows {
    size_t size;
    int64_t ctx, batch, chunks;
} rotkv_windows;

typedef struct rotkv_perplexity_figures {
    size_t size;
    double ppl, ppl_error; /* and its standard error; NaN where a likelihood is not a number */
    int64_t scored, windows, not_numbers;
} rotkv_perplexity_figures;
ROTKV_API rotkv_status rotkv_perplexity(rotkv_model* model, const char* text, size_t bytes,
                                        const char* cache_words, const rotkv_windows* windows,
                                        rotkv_progress progress, void* user,
                                        rotkv_perplexity_figures* figures);

/* Several caches over one text against a base, NULL: "k=f32,v=f32"; figures [n_caches]. */
typedef struct rotkv_kld_figures {
    size_t size;
    double kld, kld_error, kld_median, kld_99, kld_max; /* nats */
    double same_top, same_top_error;                    /* share of equal first choices, 0 .. 1 */
    double ppl, ppl_base, bytes_per_token;
    int64_t scored, not_numbers;
} rotkv_kld_figures;
ROTKV_API rotkv_status rotkv_kld_of_caches(rotkv_model* model, const char* text, size_t bytes,
                                           const char* base_words, const char* const* cache_words,
                                           int64_t n_caches, const rotkv_windows* windows,
                                           rotkv_progress progress, void* user,
                                           rotkv_kld_figures* figures);

/* What follows the prompt: at most `most` tokens, fewer where the vocabulary says that a text ends.
 * temperature 0: the likeliest word; else words are drawn, `seed` says which. */
ROTKV_API rotkv_status rotkv_generate(rotkv_model* model, const char* cache_words,
                                      const int32_t* prompt, int64_t n_prompt, int64_t most,
                                      double temperature, uint64_t seed, rotkv_progress progress,
                                      void* user, int32_t* tokens, int64_t* count);

/* Shows rows [T][heads][d] of every layer after norm and position, before any rotation. what: 0 q,
 * 1 k, 2 v. They are the visitor's until it returns; not 0: stop. */
typedef int32_t (*rotkv_visitor)(void* user, int64_t layer, int32_t what, const float* rows,
                                 int64_t tokens, int64_t heads, int64_t d);
ROTKV_API rotkv_status rotkv_capture(rotkv_model* model, const char* cache_words,
                                     const int32_t* tokens, int64_t count, rotkv_visitor visit,
                                     void* user);

#ifdef __cplusplus
}
#endif
