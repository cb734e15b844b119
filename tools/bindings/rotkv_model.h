#pragma once
/* Models: vocabularies, batches of tokens, likelihoods, perplexity, KL divergence, text. What
 * rotkv.h says holds here.
 * Docs: docs/25-bindings.md */
#include "rotkv_cache.h"

#ifdef __cplusplus
extern "C" {
#endif

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
 * u sum_w p_w^(1/T), u in [0, 1) of draws, which are NULL at 0. BAD_FILE: read, but logits are not
 * finite. */
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
