/* A reader of the ring in C, made from the byte table of docs/FRAME.md alone.
 *
 *     reader PATH FIRST STATUS_MS [trusting]
 *
 * Reads frame after frame from FIRST (0: from the head) until its stdin ends. Checks every byte against the content that
 * test/torture/content.ts defines, and prints a line of JSON every STATUS_MS and at the end. `trusting` leaves out the
 * second look at sequence and tail. This is the control, which must find torn frames. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { HEADER_BYTES = 64, FRAME_BYTES = 4224, SEMANTIC_AT = 16, SEMANTIC_FLOATS = 1024, PHYSICS_AT = 4112 };
enum { PHYSICS_WORDS = 26 /* without the checksum */, JOURNAL_ID = 0x70bed7, VALUES = 1000003 };

typedef _Atomic uint64_t counter;

static struct {
  uint64_t accepted, torn, lost, first, last, violations;
} tally;

static uint64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void say(bool done) {
  printf("{\"accepted\":%llu,\"torn\":%llu,\"lost\":%llu,\"first\":%llu,\"last\":%llu,\"violations\":%llu,\"done\":%s}\n",
         (unsigned long long)tally.accepted, (unsigned long long)tally.torn, (unsigned long long)tally.lost,
         (unsigned long long)tally.first, (unsigned long long)tally.last, (unsigned long long)tally.violations,
         done ? "true" : "false");
  fflush(stdout);
}

static void put_float(uint32_t *word, float value) { memcpy(word, &value, 4); }

static bool is_whole(const unsigned char *frame, uint64_t id) {
  float value = (float)(id % VALUES);
  uint32_t low = (uint32_t)id, expected[PHYSICS_WORDS];
  uint64_t found_id, timestamp = id * 1000, event_seq = id + 5;
  memcpy(&found_id, frame + 8, 8);
  if (found_id != id) return false;
  float semantic[SEMANTIC_FLOATS];
  memcpy(semantic, frame + SEMANTIC_AT, sizeof semantic);
  int different = 0;
  for (int k = 0; k < SEMANTIC_FLOATS; k++) different |= semantic[k] != value;
  if (different) return false;
  for (int k = 0; k < PHYSICS_WORDS; k++) put_float(&expected[k], value + (float)k);
  memcpy(&expected[4], &timestamp, 8);
  expected[6] = low * 0x9e3779b1u;
  expected[7] = low * 0x85ebca6bu;
  expected[8] = low;
  expected[9] = (uint32_t)(id % 5);
  expected[10] = (uint32_t)(id % 3);
  expected[12] = (uint32_t)(id % 4);
  expected[13] = low & 0x7fffffffu;
  memcpy(&expected[20], &event_seq, 8);
  expected[22] = SEMANTIC_FLOATS | 15u << 16;
  expected[23] = low * 0xc2b2ae35u;
  expected[24] = low >> 1;
  expected[25] = JOURNAL_ID;
  return memcmp(expected, frame + PHYSICS_AT, sizeof expected) == 0;
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  bool trusting = argc > 4 && strcmp(argv[4], "trusting") == 0;
  uint64_t status_ms = strtoull(argv[3], NULL, 10);
  int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
  struct stat status;
  unsigned char header[HEADER_BYTES];
  if (fd < 0 || fstat(fd, &status) != 0 || pread(fd, header, sizeof header, 0) != sizeof header) return 1;
  uint64_t magic, capacity;
  uint32_t version, frame_bytes;
  memcpy(&magic, header, 8);
  memcpy(&version, header + 8, 4);
  memcpy(&frame_bytes, header + 12, 4);
  memcpy(&capacity, header + 16, 8);
  if (magic != 0x5048595349435300u || version != 1 || frame_bytes != FRAME_BYTES || capacity == 0) return 1;
  if (capacity > ((uint64_t)status.st_size - HEADER_BYTES) / FRAME_BYTES) return 1;
  size_t bytes = HEADER_BYTES + capacity * FRAME_BYTES;
  unsigned char *ring = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (ring == MAP_FAILED) return 1;

  counter *head_at = (counter *)(ring + 24), *tail_at = (counter *)(ring + 32);
  uint64_t next = strtoull(argv[2], NULL, 10);
  if (next == 0) next = atomic_load(head_at);
  tally.first = next;
  tally.last = next - 1;
  static unsigned char copy[FRAME_BYTES] __attribute__((aligned(64)));
  uint64_t said_ms = now_ms();
  unsigned idle = 0, since_clock = 0;
  for (;;) {
    if (++since_clock >= 256 || idle > 2000) {
      since_clock = 0;
      uint64_t ms = now_ms();
      if (ms - said_ms >= status_ms) {
        said_ms = ms;
        say(false);
        struct pollfd in = {.fd = 0, .events = POLLIN};
        if (poll(&in, 1, 0) > 0) break;
      }
    }
    uint64_t head = atomic_load(head_at), tail = atomic_load(tail_at);
    if (next >= head) {
      /* The next frame is 200 ns away. A reader that yields its core now comes back laps later. */
      if (++idle > 2000) nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
      continue;
    }
    idle = 0;
    if (tail > next) {
      tally.lost += tail - next;
      next = tail;
      continue;
    }
    unsigned char *frame = ring + HEADER_BYTES + next % capacity * FRAME_BYTES;
    counter *sequence = (counter *)frame;
    uint64_t whole = 2 * (next / capacity + 1), before = atomic_load(sequence);
    if (before != whole) {
      /* A frame below head is whole until its slot is reused, and the writer raises tail before it changes the sequence. */
      if (atomic_load(tail_at) <= next) {
        tally.violations++;
        sched_yield();
      }
      continue;
    }
    memcpy(copy, frame, FRAME_BYTES);
    if (!trusting) {
      atomic_thread_fence(memory_order_acquire);
      if (atomic_load(sequence) != whole || atomic_load(tail_at) > next) continue;
    }
    if (!is_whole(copy, next)) tally.torn++;
    tally.accepted++;
    tally.last = next++;
  }
  say(true);
  return 0;
}
