#pragma once
/* What computes, known mistakes that it can be made to make, and the table of cases. What rotkv.h
 * says holds here.
 * Docs: docs/25-bindings.md */
#include "rotkv_types.h"

#ifdef __cplusplus
extern "C" {
#endif

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

#ifdef __cplusplus
}
#endif
