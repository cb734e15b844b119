/* What rotation is for, in C: keys with one loud channel go into caches that are exact, quantized,
 * and quantized after a rotation; then the attention that each of them gives is compared.
 * Docs: docs/25-bindings.md */
#include <math.h>
#include <rotkv.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 16, D = 64 };

static void must(rotkv_status status) {
    if (status == ROTKV_OK) return;
    fprintf(stderr, "%s: %s\n", rotkv_status_name((int)status), rotkv_last_error());
    exit(1);
}

/* [TOKENS][one head][D] f32, packed. */
static rotkv_array rows(float* data) {
    rotkv_array array = {data, TOKENS * D * sizeof *data, ROTKV_F32, {1, TOKENS, 1, D}, {0}};
    return array;
}

/* The attention of every token over itself and those before it, through a cache of these words. */
static void attend(const char* cache_words, float* q, float* k, float* v, float* output) {
    const rotkv_cache_shape shape = {.size = sizeof shape,
                                     .streams = 1,
                                     .cells = TOKENS,
                                     .layers = 1,
                                     .kv_heads = 1,
                                     .d_k = D,
                                     .d_v = D};
    const rotkv_array queries = rows(q), keys = rows(k), values = rows(v), to = rows(output);
    int32_t positions[TOKENS];
    rotkv_cache* cache;
    for (int t = 0; t < TOKENS; ++t) positions[t] = t;
    must(rotkv_cache_open(NULL, &shape, cache_words, &cache));
    must(rotkv_cache_place(cache, NULL, positions, TOKENS));
    must(rotkv_cache_store(cache, 0, &keys, &values));
    must(rotkv_cache_attend(cache, 0, &to, NULL, &queries, 0.125F, 0, 0));
    rotkv_cache_close(cache);
}

/* A number from -1 to 1. */
static float draw(uint32_t* state) {
    *state = *state * 1664525U + 1013904223U;
    return (float)(*state >> 8) / 8388608.0F - 1.0F;
}

int main(void) {
    static float q[TOKENS * D], k[TOKENS * D], v[TOKENS * D];
    static float exact[TOKENS * D], output[TOKENS * D];
    const char* caches[] = {"k=q8_0,v=q8_0", "k=q4_0,v=q4_0,rot=off", "k=q4_0,v=q4_0"};
    char why[512];
    rotkv_rotation of_k, of_v;
    uint32_t state = 1;
    for (int i = 0; i < TOKENS * D; ++i) {
        q[i] = draw(&state);
        k[i] = draw(&state) * (i % D == 5 ? 8.0F : 1.0F); /* channel 5 is loud */
        v[i] = draw(&state) * (i % D == 9 ? 8.0F : 1.0F);
    }
    must(rotkv_policy(caches[2], D, D, &of_k, &of_v, why, sizeof why, NULL));
    printf("%s", why);

    attend("k=f32,v=f32", q, k, v, exact);
    for (size_t c = 0; c < sizeof caches / sizeof *caches; ++c) {
        double error = 0, all = 0;
        attend(caches[c], q, k, v, output);
        for (int i = 0; i < TOKENS * D; ++i) {
            error += pow((double)output[i] - (double)exact[i], 2);
            all += pow((double)exact[i], 2);
        }
        printf("%-22s relative error %.5f\n", caches[c], sqrt(error / all));
    }
    if (rotkv_policy("k=q3_9", D, D, &of_k, &of_v, NULL, 0, NULL) != ROTKV_OK) {
        printf("%.34s...\n", rotkv_last_error());
    }
    return 0;
}
