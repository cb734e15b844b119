#pragma once
/* rotkv's programs that look at a model over a text, as functions: rotkv-outliers, rotkv-sweep,
 * rotkv-search, rotkv-calibrate and rotkv-fuse on a model that is open. What rotkv.h says holds
 * here.
 * Docs: docs/25-bindings.md */
#include "rotkv_model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A result in JSON. */
typedef struct rotkv_document rotkv_document;
ROTKV_API const char* rotkv_document_text(const rotkv_document* document); /* "" of NULL */
ROTKV_API void rotkv_document_close(rotkv_document* document);

/* Their names without "rotkv-"; NULL from the count on. */
ROTKV_API size_t rotkv_program_count(void);
ROTKV_API const char* rotkv_program_name(size_t index);

/* What a program shows beside its document: rotkv-calibrate the matrices of every layer. side 0: K,
 * 1: V; rows [kv_heads][d][d] f32, the visitor's until it returns; not 0: stop. */
typedef int32_t (*rotkv_matrix_visitor)(void* user, int64_t layer, int32_t side, const float* rows,
                                        int64_t kv_heads, int64_t d);

/* Runs a program. flags [n_flags]: those that decide its figures and what it writes, as on its
 * command line ("-c", "256", "--types", "q8_0,q4_0"): not -m, -f, --backend, -t, nor what only
 * prints or draws. text: what -f would name; rotkv-fuse reads it for --verify alone.
 * document: that of --json. A figure that is not a number is null there, and "not_numbers" has a
 * line for it. The callback is asked after each window, cache or part; a run that it stops leaves
 * what it had written whole: a sweep's finished cells, fuse's file behind the first part. visit may
 * be NULL.
 * USAGE: an unknown program or flag, and whatever the program ends with 2 for. */
ROTKV_API rotkv_status rotkv_program_run(rotkv_model* model, const char* program,
                                         const char* const* flags, int64_t n_flags,
                                         const char* text, size_t bytes, rotkv_progress progress,
                                         void* user, rotkv_matrix_visitor visit, void* visitor,
                                         rotkv_document** document);

#ifdef __cplusplus
}
#endif
