/* The baselines of bench/ring.ts: the same protocol, in C.
 *
 *     ring write PATH CAPACITY FRAMES ROUNDS
 *
 * Makes a ring file at PATH, populates it and fills one lap. Then it runs ROUNDS rounds, each of which writes FRAMES
 * complete frames. A round begins when a byte arrives on stdin, so that the caller can alternate these rounds with its
 * own. Prints the ns per frame of each round on a line.
 *
 *     ring follow PATH FRAMES
 *
 * Prints "ready" and waits for FRAMES new frames of an existing ring as consumer.py does (it spins, then sleeps on a
 * futex). Prints the median time from a frame's `timestamp_us`, which is in ns here, to its validated copy. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { HEADER_BYTES = 64, FRAME_BYTES = 4224, SEMANTIC_AT = 16, SEMANTIC_BYTES = 4096 };
enum { PHYSICS_AT = 4112, PHYSICS_BYTES = 112, VECTORS = 64 };

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

enum { TIMESTAMP_AT = 4128, SPIN_NS = 50000 };

static int follow(char **argv) {
  size_t count = strtoull(argv[1], NULL, 10), seen = 0;
  int fd = open(argv[0], O_RDWR);
  struct stat status;
  if (fd < 0 || fstat(fd, &status) != 0) return 1;
  unsigned char *ring = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  double *late = calloc(count, sizeof *late);
  if (ring == MAP_FAILED || late == NULL) return 1;
  _Atomic uint64_t *head_at = (_Atomic uint64_t *)(ring + 24);
  _Atomic uint32_t *waiters_at = (_Atomic uint32_t *)(ring + 56);
  uint64_t capacity = *(uint64_t *)(ring + 16), id = atomic_load(head_at);
  static unsigned char copy[FRAME_BYTES];
  puts("ready"), fflush(stdout);
  while (seen < count) {
    double start = now_ns();
    while (atomic_load(head_at) == id && now_ns() - start < SPIN_NS)
      ;
    while (atomic_load(head_at) == id) {
      atomic_store(waiters_at, 1);
      if (atomic_load(head_at) == id) syscall(SYS_futex, head_at, FUTEX_WAIT, (uint32_t)id, NULL, NULL, 0);
    }
    unsigned char *frame = ring + HEADER_BYTES + id % capacity * FRAME_BYTES;
    uint64_t whole = 2 * (id / capacity + 1);
    if (atomic_load((_Atomic uint64_t *)frame) != whole) return 1;
    memcpy(copy, frame, FRAME_BYTES);
    if (atomic_load((_Atomic uint64_t *)frame) != whole) return 1;
    late[seen++] = now_ns() - *(int64_t *)(copy + TIMESTAMP_AT), id++;
  }
  qsort(late, count, sizeof *late, ascending);
  printf("%.0f\n", late[count / 2]);
  return 0;
}

static int write_frames(char **argv) {
  uint64_t capacity = strtoull(argv[1], NULL, 10), frames = strtoull(argv[2], NULL, 10);
  uint64_t rounds = strtoull(argv[3], NULL, 10);
  uint64_t bytes = HEADER_BYTES + capacity * FRAME_BYTES;
  int fd = open(argv[0], O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0 || posix_fallocate(fd, 0, bytes) != 0) return 1;
  unsigned char *ring = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (ring == MAP_FAILED) return 1;
  madvise(ring, bytes, 23 /* MADV_POPULATE_WRITE */);

  _Atomic uint64_t *head_at = (_Atomic uint64_t *)(ring + 24), *tail_at = (_Atomic uint64_t *)(ring + 32);
  _Atomic uint32_t *waiters_at = (_Atomic uint32_t *)(ring + 56);
  static float vectors[VECTORS][1024];
  static unsigned char physics[VECTORS][PHYSICS_BYTES];
  for (int i = 0; i < VECTORS; i++)
    for (int k = 0; k < 1024; k++) vectors[i][k] = (float)(i + k) / 1024;
  for (int i = 0; i < VECTORS; i++) memset(physics[i], i, PHYSICS_BYTES);

  uint64_t id = 1, tail = 1, slot = id % capacity, whole = 2 * (id / capacity + 1), woken = 0;
  for (uint64_t round = 0; round <= rounds; round++) {
    if (round > 0 && getchar() == EOF) return 1;
    uint64_t count = round == 0 ? capacity : frames;
    double start = now_ns();
    for (uint64_t n = 0; n < count; n++) {
      unsigned char *frame = ring + HEADER_BYTES + slot * FRAME_BYTES;
      _Atomic uint64_t *sequence = (_Atomic uint64_t *)frame;
      if (id + 1 > capacity + tail) atomic_store(tail_at, tail = id + 1 - capacity);
      atomic_store(sequence, whole - 1);
      memcpy(frame + 8, &id, 8);
      memcpy(frame + SEMANTIC_AT, vectors[id % VECTORS], SEMANTIC_BYTES);
      memcpy(frame + PHYSICS_AT, physics[id % VECTORS], PHYSICS_BYTES);
      atomic_store(sequence, whole);
      atomic_store(head_at, ++id);
      if (++slot == capacity) slot = 0, whole += 2;
      if (atomic_load(waiters_at) != 0) atomic_store(waiters_at, 0), woken++;
    }
    if (round > 0) printf("%.2f\n", (now_ns() - start) / count), fflush(stdout);
  }
  munmap(ring, bytes);
  return woken > 0;
}

int main(int argc, char **argv) {
  if (argc == 6 && strcmp(argv[1], "write") == 0) return write_frames(argv + 2);
  if (argc == 4 && strcmp(argv[1], "follow") == 0) return follow(argv + 2);
  return 2;
}
