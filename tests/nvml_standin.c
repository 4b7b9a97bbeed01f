/* A stand-in for NVIDIA's libnvidia-ml.so.1: the calls that the agent makes, answered from a text file.

   It tests the real way through ctypes and the structures as pynvml declares them. It is not NVIDIA's driver: what that
   does is known here from its documentation only.

   The file is named by NVML_STANDIN and read again whenever it changes:
     card UUID NAME TOTAL FREE RESERVED UTILIZATION MIG      MIG: -1 not supported, 0 off, 1 on
     instance CARD GPU_INSTANCE TOTAL FREE RESERVED          a MIG device; its position is its order within the card,
                                                             its UUID MIG-CARD-POSITION
     process CARD POSITION KIND PID BYTES                    POSITION -1: the card itself; KIND c or m (MPS); BYTES -1: not told
     sample CARD PID TIME SM                                 TIME in us: of the epoch, or from 0 down: before now
     fail CALL CARD CODE                                     CARD -1: any
     hang CALL                                               until the line is gone
     quiet                                                   process utilisation answers success with no entry, not NOT_FOUND
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { MANY = 4096 };
typedef unsigned long long u64;
typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } Memory2;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } ProcessInfo;
typedef struct { unsigned pid; u64 time; unsigned sm, mem, enc, dec; } Sample;
typedef struct { u64 time; unsigned pid, sm, mem, enc, dec, jpg, ofa; } Sample1;
typedef struct { unsigned version, count; u64 last_seen; Sample1 *samples; } Samples1;

typedef struct { char uuid[80], name[80]; u64 total, free, reserved; unsigned utilization; int mig; } Card;
typedef struct { int card; unsigned gpu_instance; u64 total, free, reserved; } Instance;
static Card cards[64];
static Instance instances[256];
static struct { int card, position; char kind; unsigned pid; long long bytes; } processes[MANY];
static struct { int card; unsigned pid; long long time; unsigned sm; } samples[MANY];
static struct { char call[80]; int card, code; } failures[64];
static char hangs[16][80];
static int n_cards, n_instances, n_processes, n_samples, n_failures, n_hangs, quiet, initialised;

static void read_state(void) {
    static struct timespec read_of;
    static ino_t inode;
    struct stat now;
    const char *path = getenv("NVML_STANDIN");
    if (path == NULL || stat(path, &now) != 0) return;
    if (now.st_ino == inode && now.st_mtim.tv_sec == read_of.tv_sec && now.st_mtim.tv_nsec == read_of.tv_nsec) return;
    FILE *file = fopen(path, "r");
    if (file == NULL) return;
    inode = now.st_ino;
    read_of = now.st_mtim;
    n_cards = n_instances = n_processes = n_samples = n_failures = n_hangs = quiet = 0;
    char line[512];
    while (fgets(line, sizeof line, file)) {
        Card *card = &cards[n_cards];
        Instance *instance = &instances[n_instances];
        if (sscanf(line, "card %79s %79s %llu %llu %llu %u %d", card->uuid, card->name, &card->total, &card->free,
                   &card->reserved, &card->utilization, &card->mig) == 7) n_cards++;
        if (sscanf(line, "instance %d %u %llu %llu %llu", &instance->card, &instance->gpu_instance, &instance->total,
                   &instance->free, &instance->reserved) == 5) n_instances++;
        if (n_processes < MANY && sscanf(line, "process %d %d %c %u %lld", &processes[n_processes].card,
                   &processes[n_processes].position, &processes[n_processes].kind, &processes[n_processes].pid,
                   &processes[n_processes].bytes) == 5) n_processes++;
        if (n_samples < MANY && sscanf(line, "sample %d %u %lld %u", &samples[n_samples].card, &samples[n_samples].pid,
                   &samples[n_samples].time, &samples[n_samples].sm) == 4) n_samples++;
        if (sscanf(line, "fail %79s %d %d", failures[n_failures].call, &failures[n_failures].card,
                   &failures[n_failures].code) == 3) n_failures++;
        if (sscanf(line, "hang %79s", hangs[n_hangs]) == 1) n_hangs++;
        if (strncmp(line, "quiet", 5) == 0) quiet = 1;
    }
    fclose(file);
}

/* Handles: 1 + card, or for a MIG device 1000 + 100 * card + position. */
static int card_of(void *handle) { long h = (long)handle; return h >= 1000 ? (int)((h - 1000) / 100) : (int)h - 1; }
static int position_of(void *handle) { long h = (long)handle; return h >= 1000 ? (int)((h - 1000) % 100) : -1; }

static Instance *instance_at(int card, int position) {
    for (int i = 0; i < n_instances; i++)
        if (instances[i].card == card && position-- == 0) return &instances[i];
    return NULL;
}

static int begin(const char *call, int card) {
    for (;;) {
        int hanging = 0;
        read_state();
        for (int i = 0; i < n_hangs; i++) hanging |= strcmp(hangs[i], call) == 0;
        if (!hanging) break;
        usleep(10000);
    }
    for (int i = 0; i < n_failures; i++)
        if (strcmp(failures[i].call, call) == 0 && (failures[i].card < 0 || failures[i].card == card)) return failures[i].code;
    return SUCCESS;
}

#define BEGIN(card) do { int code = begin(__func__, (card)); if (code != SUCCESS) return code; \
                         if (!initialised) return UNINITIALIZED; } while (0)

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int code = begin(__func__, -1);
    initialised = code == SUCCESS;
    return code;
}
int nvmlShutdown(void) { initialised = 0; return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "stand-in"; }
int nvmlDeviceGetCount_v2(unsigned *count) { BEGIN(-1); *count = (unsigned)n_cards; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    BEGIN((int)index);
    if ((int)index >= n_cards) return INVALID_ARGUMENT;
    *handle = (void *)(long)(index + 1);
    return SUCCESS;
}
int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
    BEGIN(card_of(handle));
    if (position_of(handle) >= 0) snprintf(text, size, "MIG-%d-%d", card_of(handle), position_of(handle));
    else snprintf(text, size, "%s", cards[card_of(handle)].uuid);
    return SUCCESS;
}
int nvmlDeviceGetName(void *handle, char *text, unsigned size) {
    BEGIN(card_of(handle));
    snprintf(text, size, "%s", cards[card_of(handle)].name);
    for (char *c = text; *c; c++) if (*c == '_') *c = ' ';
    return SUCCESS;
}

static void memory_of(void *handle, u64 *total, u64 *free_, u64 *reserved) {
    Card *card = &cards[card_of(handle)];
    Instance *instance = instance_at(card_of(handle), position_of(handle));
    int whole = position_of(handle) < 0 || instance == NULL;
    *total = whole ? card->total : instance->total;
    *free_ = whole ? card->free : instance->free;
    *reserved = whole ? card->reserved : instance->reserved;
}
int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    BEGIN(card_of(handle));
    u64 reserved;
    memory_of(handle, &memory->total, &memory->free, &reserved);
    memory->used = memory->total - memory->free;
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *handle, unsigned *rates) {
    BEGIN(card_of(handle));
    if (cards[card_of(handle)].mig == 1) return NOT_SUPPORTED;
    rates[0] = cards[card_of(handle)].utilization;
    rates[1] = 0;
    return SUCCESS;
}

static int list(void *handle, char kind, unsigned *count, ProcessInfo *into) {
    unsigned room = *count, found = 0;
    for (int i = 0; i < n_processes; i++) {
        if (processes[i].card != card_of(handle) || processes[i].position != position_of(handle)) continue;
        if (processes[i].kind != kind) continue;
        if (into != NULL && found < room) {
            into[found].pid = processes[i].pid;
            into[found].used = processes[i].bytes < 0 ? ~0ULL : (u64)processes[i].bytes;
            into[found].gpu_instance = into[found].compute_instance = ~0U;
        }
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *into) {
    BEGIN(card_of(handle));
    return list(handle, 'c', count, into);
}

/* TIME of a sample, and whether it is newer than what the caller has seen. */
static int is_news(int i, void *handle, u64 last_seen, u64 *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    long long now_us = (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    *at = (u64)(samples[i].time > 0 ? samples[i].time : now_us + samples[i].time);
    return samples[i].card == card_of(handle) && *at > last_seen;
}
int nvmlDeviceGetProcessUtilization(void *handle, Sample *into, unsigned *count, u64 last_seen) {
    BEGIN(card_of(handle));
    unsigned room = *count, found = 0;
    u64 at;
    for (int i = 0; i < n_samples; i++) {
        if (!is_news(i, handle, last_seen, &at)) continue;
        if (into != NULL && found < room) {
            memset(&into[found], 0, sizeof into[found]);
            into[found].pid = samples[i].pid;
            into[found].time = at;
            into[found].sm = samples[i].sm;
        }
        found++;
    }
    *count = found;
    if (found == 0) return quiet ? SUCCESS : NOT_FOUND;
    return into == NULL ? INSUFFICIENT_SIZE : SUCCESS;
}

#ifndef OLD_DRIVER /* what drivers before R510 or so do not have at all */
int nvmlDeviceGetMemoryInfo_v2(void *handle, Memory2 *memory) {
    BEGIN(card_of(handle));
    memory_of(handle, &memory->total, &memory->free, &memory->reserved);
    memory->used = memory->total - memory->free;
    return SUCCESS;
}
int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *into) {
    BEGIN(card_of(handle));
    return list(handle, 'm', count, into);
}
int nvmlDeviceGetProcessesUtilizationInfo(void *handle, Samples1 *told) {
    BEGIN(card_of(handle));
    unsigned room = told->count, found = 0;
    u64 at;
    for (int i = 0; i < n_samples; i++) {
        if (!is_news(i, handle, told->last_seen, &at)) continue;
        if (told->samples != NULL && found < room) {
            memset(&told->samples[found], 0, sizeof told->samples[found]);
            told->samples[found].pid = samples[i].pid;
            told->samples[found].time = at;
            told->samples[found].sm = samples[i].sm;
        }
        found++;
    }
    told->count = found;
    if (found == 0) return quiet ? SUCCESS : NOT_FOUND;
    return told->samples == NULL ? INSUFFICIENT_SIZE : SUCCESS;
}
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    BEGIN(card_of(handle));
    int mig = cards[card_of(handle)].mig;
    if (mig < 0) return NOT_SUPPORTED;
    *current = *pending = (unsigned)mig;
    return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) { BEGIN(card_of(handle)); *count = 7; return SUCCESS; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **device) {
    BEGIN(card_of(handle));
    if (instance_at(card_of(handle), (int)index) == NULL) return NOT_FOUND;
    *device = (void *)(long)(1000 + 100 * card_of(handle) + (int)index);
    return SUCCESS;
}
int nvmlDeviceGetGpuInstanceId(void *device, unsigned *id) {
    BEGIN(card_of(device));
    *id = instance_at(card_of(device), position_of(device))->gpu_instance;
    return SUCCESS;
}
#endif
