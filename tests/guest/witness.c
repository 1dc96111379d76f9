/*
 * The witness: the only program of the guest that tests, demo and benchmarks share. Its lines on the serial console
 * tell from outside whether disks and memory are of one moment.
 *
 *   witness MB DIRTY TICK_US
 *
 * MB       MiB of random data held in memory
 * DIRTY    random pages of it that every tick changes
 * TICK_US  microseconds from one tick to the next; a late tick is not made up for
 *
 * At start it draws a random boot id that lives in memory only. It then counts. Each count n:
 *   1. checks that every disk /dev/vd* is of this memory's moment: the last record is the one committed, the one before
 *      it is there too, the one to come is not (a program stopped after this check overwrites block 0 of a wrong disk,
 *      and finds out by these neighbours at the next count);
 *   2. writes the record (boot id, n) to every disk, in the order vda, vdb, ...: first into a spread block (O_DIRECT),
 *      then into block 0 (O_DIRECT|O_DSYNC, which makes both durable), so that one disk's record is durable before the
 *      next disk's is begun;
 *   3. notes n as committed, changes DIRTY pages, says `T`.
 *
 * Lines (boot ids are 16 hex digits, numbers decimal):
 *   B <boot> mem <MiB> cpus <n> disks vda=<boot>:<n>,vdb=<boot>:<n>   once, before the first write: what the disks held;
 *                                                                    `disks -` when there is none
 *   T <boot> <n>                                                     each tick, after its writes
 *   TORN disk=<vdX> boot <on disk>/<in memory> disk <n> mem <n>      the disk is of another moment than the memory: the
 *                                                                    offending record, and what memory has committed
 *   ERR disk=<vdX> <open|read|write> <errno>                         the disk did not answer
 *   P <boot> <n>                                                     the power button was pressed; power goes off
 *
 * On disk, block 0 (4096 bytes): u64 boot id, u64 n, both little-endian, then zeros. Block 1 + n % slots holds the
 * record n, too, where slots = min(20000, blocks of the disk - 1), so the last records are all there.
 *
 * So: same boot id and the next n after a rollback with memory: resumed exactly. TORN: disk and memory of different
 * moments. In an image of the disks alone, taken at one moment, all records have the same boot id and
 * n(vda) - n(vdb) is 0 or 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/input.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, MAX_DISKS = 26, MAX_SLOTS = 20000, MAX_INPUTS = 32, LINE = 128 };

struct record {
    uint64_t boot, n;
};

struct disk {
    char name[4];
    int fd;                  /* O_DSYNC: block 0 */
    int spread_fd;           /* not O_DSYNC: the flush after block 0 covers the spread block */
    uint64_t slots;          /* spread blocks behind block 0 */
    struct record committed; /* what memory says the disk holds */
    uint64_t in_flight;      /* the n whose write was begun last; equals committed.n once it was answered */
    uint64_t unbroken_since; /* every record from this n on was written without an error */
};

static struct disk disks[MAX_DISKS];
static int disk_count;
static int console;
static uint64_t boot;
static uint64_t tick;
static pthread_mutex_t ticking = PTHREAD_MUTEX_INITIALIZER; /* held through a tick; the power button ends them for good */

static void say(const char *line, int length)
{
    while (length > 0) {
        ssize_t done = write(console, line, (size_t)length);
        if (done < 0 && errno != EINTR)
            return; /* nobody to tell */
        if (done > 0) {
            line += done;
            length -= (int)done;
        }
    }
}

#define SAY(...)                                                    \
    do {                                                            \
        char line_[LINE];                                           \
        say(line_, snprintf(line_, sizeof line_, __VA_ARGS__));     \
    } while (0)

static void *blocks(size_t count)
{
    void *buffer;
    if (posix_memalign(&buffer, BLOCK, count * BLOCK))
        abort();
    memset(buffer, 0, count * BLOCK);
    return buffer;
}

static int read_records(struct disk *disk, void *buffer, off_t block, int count, struct record *found)
{
    ssize_t got = pread(disk->fd, buffer, (size_t)count * BLOCK, block * BLOCK);
    if (got != (ssize_t)count * BLOCK) {
        SAY("ERR disk=%s read %d\n", disk->name, got < 0 ? errno : EIO);
        return -1;
    }
    for (int i = 0; i < count; i++)
        memcpy(&found[i], (char *)buffer + i * BLOCK, sizeof *found);
    return 0;
}

static off_t spread_block(const struct disk *disk, uint64_t n) { return (off_t)(1 + n % disk->slots); }

static void open_disks(void *buffer)
{
    for (char letter = 'a'; letter <= 'z'; letter++) {
        char path[16];
        uint64_t size = 0;
        struct disk *disk = &disks[disk_count];
        snprintf(disk->name, sizeof disk->name, "vd%c", letter);
        snprintf(path, sizeof path, "/dev/vd%c", letter);
        if (access(path, F_OK))
            continue;
        disk->fd = open(path, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
        disk->spread_fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
        if (disk->fd < 0 || disk->spread_fd < 0 || ioctl(disk->fd, BLKGETSIZE64, &size) || size < 8 * BLOCK) {
            SAY("ERR disk=%s open %d\n", disk->name, errno);
            continue;
        }
        disk->slots = size / BLOCK - 1 < MAX_SLOTS ? size / BLOCK - 1 : MAX_SLOTS;
        if (read_records(disk, buffer, 0, 1, &disk->committed))
            continue;
        disk->in_flight = disk->committed.n;
        disk->unbroken_since = 1;
        disk_count++;
    }
}

static int is_ours(struct record record, uint64_t n) { return record.boot == boot && record.n == n; }

static void torn(const struct disk *disk, struct record found)
{
    SAY("TORN disk=%s boot %016llx/%016llx disk %llu mem %llu\n", disk->name, (unsigned long long)found.boot,
        (unsigned long long)boot, (unsigned long long)found.n, (unsigned long long)disk->committed.n);
}

static void check(struct disk *disk, void *buffer)
{
    struct record last, near[3]; /* near: the spread records n - 1, n and n + 1 */
    const uint64_t n = disk->committed.n;
    if (read_records(disk, buffer, 0, 1, &last))
        return;
    if (last.boot == disk->committed.boot && last.n == n) {
        if (disk->committed.boot != boot)
            return; /* the first tick: what was found at boot */
    } else if (!is_ours(last, disk->in_flight)) {
        torn(disk, last);
        return;
    }
    if (spread_block(disk, n) == 1 || spread_block(disk, n + 1) == 1)
        return; /* the neighbours are not side by side; once in a round */
    if (read_records(disk, buffer, spread_block(disk, n - 1), 3, near))
        return;
    if (n > disk->unbroken_since && !is_ours(near[0], n - 1))
        torn(disk, near[0]);
    else if (n >= disk->unbroken_since && !is_ours(near[1], n))
        torn(disk, near[1]);
    else if (near[2].boot == boot && near[2].n > disk->in_flight)
        torn(disk, near[2]);
}

static void commit(struct disk *disk, void *buffer, struct record record)
{
    off_t spread = spread_block(disk, record.n) * BLOCK;
    memcpy(buffer, &record, sizeof record);
    disk->in_flight = record.n;
    errno = EIO; /* said when a write is short */
    if (pwrite(disk->spread_fd, buffer, BLOCK, spread) == BLOCK && pwrite(disk->fd, buffer, BLOCK, 0) == BLOCK) {
        disk->committed = record;
        return;
    }
    SAY("ERR disk=%s write %d\n", disk->name, errno);
    disk->unbroken_since = record.n + 1;
}

/* The kernel's tally of RAM, rounded up to 4 MiB: firmware keeps some hundred KiB of what the machine was given. */
static unsigned long long installed_mib(void)
{
    char line[256];
    unsigned long long total = 0, first, last;
    FILE *map = fopen("/proc/iomem", "r");
    if (!map)
        return 0;
    while (fgets(line, sizeof line, map))
        if (line[0] != ' ' && strstr(line, "System RAM") && sscanf(line, "%llx-%llx", &first, &last) == 2)
            total += last - first + 1;
    fclose(map);
    return (total + (4 << 20) - 1) / (4 << 20) * 4;
}

static void greet(void)
{
    char line[64 + MAX_DISKS * 48];
    int used = snprintf(line, sizeof line, "B %016llx mem %llu cpus %ld disks ", (unsigned long long)boot,
                        installed_mib(), sysconf(_SC_NPROCESSORS_ONLN));
    if (!disk_count)
        used += snprintf(line + used, sizeof line - (size_t)used, "-");
    for (int i = 0; i < disk_count; i++)
        used += snprintf(line + used, sizeof line - (size_t)used, "%s%s=%016llx:%llu", i ? "," : "", disks[i].name,
                         (unsigned long long)disks[i].committed.boot, (unsigned long long)disks[i].committed.n);
    used += snprintf(line + used, sizeof line - (size_t)used, "\n");
    say(line, used);
}

static void *power_button(void *unused)
{
    struct pollfd inputs[MAX_INPUTS];
    nfds_t count = 0;
    (void)unused;
    for (int i = 0; i < MAX_INPUTS; i++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            inputs[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    while (count && poll(inputs, count, -1) >= 0)
        for (nfds_t i = 0; i < count; i++) {
            struct input_event event;
            if (!(inputs[i].revents & POLLIN) || read(inputs[i].fd, &event, sizeof event) != sizeof event)
                continue;
            if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
                pthread_mutex_lock(&ticking);
                SAY("P %016llx %llu\n", (unsigned long long)boot, (unsigned long long)tick);
                tcdrain(console);
                sync();
                reboot(RB_POWER_OFF);
            }
        }
    return NULL;
}

static uint64_t next_random(uint64_t *state) /* xorshift64 */
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void wait_for_next(struct timespec *due, long tick_us)
{
    struct timespec now;
    due->tv_nsec += tick_us % 1000000 * 1000;
    due->tv_sec += tick_us / 1000000 + due->tv_nsec / 1000000000;
    due->tv_nsec %= 1000000000;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec > due->tv_sec || (now.tv_sec == due->tv_sec && now.tv_nsec > due->tv_nsec))
        *due = now;
    else
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, due, NULL);
}

int main(int argc, char **argv)
{
    console = open("/dev/ttyS0", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (console < 0 || argc != 4)
        return 1;
    const uint64_t pages = (uint64_t)atol(argv[1]) << 20 >> 12;
    const long dirty = pages ? atol(argv[2]) : 0, tick_us = atol(argv[3]);
    if (getrandom(&boot, sizeof boot, 0) != sizeof boot)
        return 1;
    uint64_t random = boot | 1;
    uint64_t *memory = mmap(NULL, (pages + 1) * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    for (uint64_t i = 0; i < pages * BLOCK / sizeof *memory; i++)
        memory[i] = next_random(&random);

    void *reading = blocks(3), *writing = blocks(1);
    open_disks(reading);
    greet();
    pthread_t button;
    pthread_create(&button, NULL, power_button, NULL);

    struct timespec due;
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (;;) {
        pthread_mutex_lock(&ticking);
        for (int i = 0; i < disk_count; i++)
            check(&disks[i], reading);
        const struct record record = {boot, tick + 1};
        for (int i = 0; i < disk_count; i++)
            commit(&disks[i], writing, record);
        tick = record.n;
        for (long i = 0; i < dirty; i++)
            memory[next_random(&random) % pages * (BLOCK / sizeof *memory)]++;
        SAY("T %016llx %llu\n", (unsigned long long)boot, (unsigned long long)tick);
        pthread_mutex_unlock(&ticking);
        wait_for_next(&due, tick_us);
    }
}
