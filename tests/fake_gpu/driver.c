/* A CUDA driver without a GPU: device memory is host memory, streams run at once.
   FAKE_GPU names the GPU, FAKE_COUNT says how many multiprocessors it has, FAKE_FAILS is the name
   of a call that fails. What cuda.bindings asks for and is not here does not exist. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int live_allocations, live_streams, retained;

int fake_live(void) { return live_allocations + live_streams + retained; }

static int fails(const char *function) {
    const char *chosen = getenv("FAKE_FAILS");
    return chosen && strncmp(function, chosen, strlen(chosen)) == 0;
}

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 0; return ordinal ? 101 : 0; }
int cuDeviceGetName(char *name, int length, int device) {
    const char *chosen = getenv("FAKE_GPU");
    snprintf(name, length, "%s", chosen ? chosen : "Pretend Orin");
    return device;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    const char *count = getenv("FAKE_COUNT");
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 0; /* compute capability, major and minor */
    if (attribute == 16) *value = count ? atoi(count) : 8;
    return device;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &retained;
    retained++;
    return device;
}
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return device; }

static __thread void *current;
int cuCtxSetCurrent(void *context) { current = context; return context ? 0 : 201; }
#define NEEDS_CONTEXT if (!current) return 201; if (fails(__func__)) return 2

int cuStreamCreate(void **stream, unsigned flags) {
    NEEDS_CONTEXT;
    *stream = &live_streams;
    live_streams++;
    return flags == 1 ? 0 : 1;
}
int cuStreamDestroy_v2(void *stream) { NEEDS_CONTEXT; live_streams--; return !stream; }
int cuStreamSynchronize(void *stream) { NEEDS_CONTEXT; return !stream; }
int cuMemGetInfo_v2(size_t *free_, size_t *total) {
    NEEDS_CONTEXT;
    *free_ = 1u << 29;
    *total = 1u << 30;
    return 0;
}
int cuMemAlloc_v2(void **address, size_t size) {
    NEEDS_CONTEXT;
    *address = size < (1u << 30) ? malloc(size) : NULL;
    live_allocations += *address != NULL;
    return *address ? 0 : 2;
}
int cuMemFree_v2(void *address) { NEEDS_CONTEXT; free(address); live_allocations--; return 0; }
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t size, void *stream) {
    NEEDS_CONTEXT;
    memcpy(to, from, size);
    return !stream;
}
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t size, void *stream) {
    NEEDS_CONTEXT;
    memcpy(to, from, size);
    return !stream;
}
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long flags,
                        int *status) {
    char newer[128];
    void *self = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY);
    snprintf(newer, sizeof newer, "%s_v2", name);
    *function = dlsym(self, newer);
    if (!*function) *function = dlsym(self, name);
    if (status) *status = *function ? 0 : 1;
    return *function ? 0 : 500;
}
int cuGetProcAddress(const char *name, void **function, int version, unsigned long flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
