#pragma once
/* Caches that rows are stored in and attended from, and saved ones. What rotkv.h says holds here.
 * Docs: docs/25-bindings.md */
#include "rotkv_operations.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rotkv_cache rotkv_cache;
/* A cache of equal layers, its cells empty; rotkv_model_cache() makes one for a model. */
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

#ifdef __cplusplus
}
#endif
