/* A driver's libnvidia-ml for a machine without one: GPUs that stand in the folder $FAKE_NVML.
   `gpus` holds their number; a file `lost-N` makes GPU N answer that it is lost, `xid-N` holds the number of an
   error that is reported once, and `mig-N` the number of instances into which GPU N is divided. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define TIMEOUT 10
#define LOST 15

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Utilization;
typedef struct { void *device; unsigned long long type, data; unsigned int instances[2]; } Event;

static long number_in(const char *name, unsigned int gpu)
{
    char path[512], text[32] = "";
    snprintf(path, sizeof path, name, getenv("FAKE_NVML"), gpu);
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    if (!fgets(text, sizeof text, file)) text[0] = 0;
    fclose(file);
    return atol(text);
}

/* A handle is the GPU's number plus one; an event set is that of the GPU registered last. */
static unsigned int whole(void *handle) { return ((unsigned int)(size_t)handle - 1) & 255; }
/* An instance's handle has its number plus one in the bits above; `number` is the GPU's. */
static unsigned int instance(void *handle) { return (unsigned int)(size_t)handle >> 16; }
static unsigned int number(void *handle) { return whole(handle); }
static int state(void *handle) { return number_in("%s/lost-%u", number(handle)) < 0 ? OK : LOST; }
static unsigned int registered;

int nvmlInitWithFlags(unsigned int flags) { return getenv("FAKE_NVML") ? OK : 9; }
const char *nvmlErrorString(int error) { return error == LOST ? "GPU is lost" : "error of the test's driver"; }
int nvmlSystemGetDriverVersion(char *text, unsigned int size) { snprintf(text, size, "580.65.06"); return OK; }

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    long gpus = number_in("%s/gpus", 0);
    *count = gpus < 0 ? 0 : (unsigned int)gpus;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle)
{
    *handle = (void *)(size_t)(index + 1);
    return state(*handle);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle)
{
    unsigned int index, part;
    if (sscanf(uuid, "MIG-fake-%u-%u", &index, &part) == 2) {
        *handle = (void *)(size_t)((index + 1) | (part + 1) << 16);
        return state(*handle);
    }
    if (sscanf(uuid, "GPU-fake-%u", &index) != 1) return NOT_FOUND;
    return nvmlDeviceGetHandleByIndex_v2(index, handle);
}

int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending)
{
    *current = *pending = number_in("%s/mig-%u", number(handle)) > 0;
    return number(handle) == 1 && !*current ? NOT_SUPPORTED : state(handle);
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned int *count) { *count = 7; return state(handle); }

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned int index, void **found)
{
    if ((long)index >= number_in("%s/mig-%u", number(handle))) return NOT_FOUND;
    *found = (void *)(size_t)((number(handle) + 1) | (index + 1) << 16);
    return OK;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned int size)
{
    if (instance(handle)) snprintf(text, size, "MIG-fake-%u-%u", number(handle), instance(handle) - 1);
    else snprintf(text, size, "GPU-fake-%u", number(handle));
    return state(handle);
}

int nvmlDeviceGetName(void *handle, char *text, unsigned int size)
{
    snprintf(text, size, instance(handle) ? "NVIDIA H100 80GB HBM3 MIG 1g.10gb" : "NVIDIA L40S");
    return state(handle);
}

int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory)
{
    memory->total = (instance(handle) ? 9728ULL : 46068ULL) << 20;
    memory->used = (1 + number(handle)) * (1ULL << 30);
    memory->free = memory->total - memory->used;
    return state(handle);
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor)
{
    *major = 8;
    *minor = 9;
    return state(handle);
}

int nvmlDeviceGetUtilizationRates(void *handle, Utilization *rates)
{
    rates->gpu = 25;
    rates->memory = 5;
    return state(handle);
}

int nvmlDeviceGetDecoderUtilization(void *handle, unsigned int *share, unsigned int *period)
{
    return number(handle) == 1 || instance(handle) ? NOT_SUPPORTED : (*share = 75, *period = 100, state(handle));
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned int *degrees)
{
    *degrees = 40 + number(handle);
    return sensor == 0 ? state(handle) : INVALID_ARGUMENT;
}

int nvmlEventSetCreate(void **set) { *set = (void *)1; return OK; }

int nvmlDeviceRegisterEvents(void *handle, unsigned long long types, void *set)
{
    if (instance(handle)) return INVALID_ARGUMENT;
    registered = number(handle);
    return types == 8 ? state(handle) : INVALID_ARGUMENT;
}

int nvmlEventSetWait_v2(void *set, Event *event, unsigned int timeout)
{
    char path[512];
    long xid = number_in("%s/xid-%u", registered);
    if (xid < 0) return TIMEOUT;
    snprintf(path, sizeof path, "%s/xid-%u", getenv("FAKE_NVML"), registered);
    unlink(path);
    memset(event, 0, sizeof *event);
    event->type = 8;
    event->data = (unsigned long long)xid;
    return OK;
}
