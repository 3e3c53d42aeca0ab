/**
 * The C library by bun:ffi: the few calls that node:fs lacks, and every constant that differs between
 * Linux and macOS. What runs on macOS only says so: it has not been run.
 */
import { dlopen, type Pointer, read, toArrayBuffer } from "bun:ffi";
import { closeSync, ftruncateSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";

interface Platform {
  /** Tried in this order. */
  readonly libraries: readonly string[];
  readonly errnoSymbol: "__errno_location" | "__error";
  /** `open` flags that node:fs does not name. */
  readonly O_CLOEXEC: number;
  readonly EWOULDBLOCK: number;
  readonly ENOSPC: number;
  readonly EINTR: number;
  /** Fault pages in for writing (Linux 5.14); null where there is no such advice. */
  readonly MADV_POPULATE_WRITE: number | null;
  /** Number of the futex system call; null where there is none. */
  readonly futex: number | null;
  readonly posixFallocate: boolean;
}

const LINUX: Platform = {
  libraries: ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`],
  errnoSymbol: "__errno_location",
  O_CLOEXEC: 0o2000000,
  EWOULDBLOCK: 11,
  ENOSPC: 28,
  EINTR: 4,
  MADV_POPULATE_WRITE: 23,
  futex: process.arch === "arm64" ? 98 : 202,
  posixFallocate: true,
};

// Untested: no macOS machine has run this.
const MACOS: Platform = {
  libraries: ["libSystem.B.dylib"],
  errnoSymbol: "__error",
  O_CLOEXEC: 0x1000000,
  EWOULDBLOCK: 35,
  ENOSPC: 28,
  EINTR: 4,
  MADV_POPULATE_WRITE: null,
  futex: null,
  posixFallocate: false,
};

const platform: Platform = process.platform === "darwin" ? MACOS : LINUX;

export const { O_CLOEXEC } = platform;

const LOCK_EX = 2;
const LOCK_NB = 4;
const PROT_READ = 1;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const PRIO_PROCESS = 0;
/** Not FUTEX_PRIVATE: the sleepers are in other processes. */
const FUTEX_WAKE = 1;
const PROT_READ_EXECUTE = 5;
const MAP_PRIVATE = 2;
const PROBE_BYTES = 4096;
const EVERYBODY = 0x7fffffff;
/** One slice of allocating or populating takes about 1 ms; never more than a few. */
const SLICE_BYTES_MIN = 1 << 20;
const SLICE_BYTES_MAX = 8 << 20;
const SLICE_MS = 2;

const SYMBOLS = {
  flock: { args: ["i32", "i32"], returns: "i32" },
  mmap: { args: ["ptr", "u64", "i32", "i32", "i32", "i64"], returns: "i64" },
  munmap: { args: ["u64", "u64"], returns: "i32" },
  madvise: { args: ["u64", "u64", "i32"], returns: "i32" },
  setpriority: { args: ["i32", "u32", "i32"], returns: "i32" },
} as const;

const LINUX_SYMBOLS = {
  ...SYMBOLS,
  __errno_location: { args: [], returns: "ptr" },
  posix_fallocate: { args: ["i32", "i64", "i64"], returns: "i32" },
  syscall: { args: ["i64", "u64", "i32", "i32", "u64", "u64", "i32"], returns: "i64" },
} as const;

const MACOS_SYMBOLS = { ...SYMBOLS, __error: { args: [], returns: "ptr" } } as const;

type Common = ReturnType<typeof dlopen<typeof SYMBOLS>>["symbols"];

interface Libc extends Common {
  readonly errno: () => number;
  /** 0, or the errno: nothing else tells. */
  readonly allocate: (fd: number, offsetBytes: number, lengthBytes: number) => number;
  readonly futexWake: (address: number) => void;
}

let loaded: Libc | null = null;

function libc(): Libc {
  loaded ??= process.platform === "darwin" ? openMacos() : openLinux();
  return loaded;
}

function openFirst<T>(open: (library: string) => T): T {
  let failure: unknown;
  for (const library of platform.libraries) {
    try {
      return open(library);
    } catch (error) {
      failure = error;
    }
  }
  throw new Error(`libc: none of ${platform.libraries.join(", ")} can be loaded`, { cause: failure });
}

function readErrno(location: Pointer | bigint | null): number {
  return location === null ? 0 : read.i32(location as Pointer, 0);
}

function openLinux(): Libc {
  const { symbols } = openFirst((library) => dlopen(library, LINUX_SYMBOLS));
  return {
    ...symbols,
    errno: () => readErrno(symbols.__errno_location()),
    allocate: (fd, offsetBytes, lengthBytes) => {
      for (;;) {
        const errno = symbols.posix_fallocate(fd, offsetBytes, lengthBytes);
        if (errno !== platform.EINTR) return errno;
      }
    },
    futexWake: (address) => {
      symbols.syscall(platform.futex as number, address, FUTEX_WAKE, EVERYBODY, 0, 0, 0);
    },
  };
}

// Untested. Without posix_fallocate, written zeros are what makes the pages exist.
function openMacos(): Libc {
  const { symbols } = openFirst((library) => dlopen(library, MACOS_SYMBOLS));
  const zeros = new Uint8Array(1 << 20);
  return {
    ...symbols,
    errno: () => readErrno(symbols.__error()),
    allocate: (fd, offsetBytes, lengthBytes) => {
      try {
        for (let done = 0; done < lengthBytes; ) {
          done += writeSync(fd, zeros, 0, Math.min(zeros.length, lengthBytes - done), offsetBytes + done);
        }
        return 0;
      } catch (error) {
        ftruncateSync(fd, offsetBytes);
        return Math.abs((error as { errno?: number }).errno ?? platform.ENOSPC);
      }
    },
    // Readers there poll.
    futexWake: () => {},
  };
}

/**
 * `flock(LOCK_EX | LOCK_NB)`.
 * @returns false where another descriptor holds the lock
 * @throws Error for any other failure
 */
export function lockExclusive(fd: number): boolean {
  if (libc().flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const errno = libc().errno();
  if (errno === platform.EWOULDBLOCK) return false;
  throw new Error(`flock failed with errno ${errno}`);
}

/** Lets the other work of this thread run. */
export const nextTurn = (): Promise<void> => new Promise((done) => setImmediate(done));

/**
 * Runs `work` over all bytes in pieces so short that other work of this thread hardly waits, until it returns
 * an errno.
 */
async function inSlices(
  totalBytes: number,
  work: (offsetBytes: number, lengthBytes: number) => number,
): Promise<number> {
  let sliceBytes = SLICE_BYTES_MIN;
  for (let offset = 0; offset < totalBytes; ) {
    const length = Math.min(sliceBytes, totalBytes - offset);
    const startMs = performance.now();
    const errno = work(offset, length);
    if (errno !== 0) return errno;
    const tookMs = performance.now() - startMs;
    offset += length;
    if (tookMs < SLICE_MS / 2) sliceBytes = Math.min(2 * sliceBytes, SLICE_BYTES_MAX);
    if (tookMs > SLICE_MS) sliceBytes = Math.max(sliceBytes / 2, SLICE_BYTES_MIN);
    await nextTurn();
  }
  return 0;
}

/**
 * Makes the pages of a file exist, so that touching them can never raise SIGBUS; the file grows to hold them.
 * @returns false where there is no room for them: part of the file may exist then
 * @throws Error for any other failure
 */
export async function allocateFile(fd: number, bytes: number): Promise<boolean> {
  const errno = await inSlices(bytes, (offset, length) => libc().allocate(fd, offset, length));
  if (errno !== 0 && errno !== platform.ENOSPC) throw new Error(`posix_fallocate failed with errno ${errno}`);
  return errno === 0;
}

/**
 * Lowers the priority of the calling thread (on Linux; elsewhere of the process) by `nice`, 0 to 19.
 * @returns whether the system took it
 */
export function lowerThreadPriority(nice: number): boolean {
  return libc().setpriority(PRIO_PROCESS, 0, nice) === 0;
}

/**
 * Whether code in files of this folder may be run: a file there can be written and mapped executable.
 * @returns null where it may, else what the system said
 */
export function whyNotExecutable(folder: string): string | null {
  const path = join(folder, `.gateway-probe-${process.pid}`);
  let fd: number | null = null;
  try {
    fd = openSync(path, "wx+", 0o600);
    writeSync(fd, new Uint8Array(PROBE_BYTES));
    const address = Number(libc().mmap(null, PROBE_BYTES, PROT_READ_EXECUTE, MAP_PRIVATE, fd, 0));
    if (address === -1) return "it is mounted noexec";
    libc().munmap(address, PROBE_BYTES);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    if (fd !== null) {
      closeSync(fd);
      rmSync(path, { force: true });
    }
  }
}

/** A file mapped shared. Its owner keeps no view longer than the mapping. */
export class Mapping {
  readonly bytes: number;
  #address: number;

  /**
   * @param bytes to map from the file's start; every page must exist (see {@link allocateFile})
   * @param access "read": a store into a view of it ends the process
   * @throws Error where mmap refuses
   */
  constructor(fd: number, bytes: number, access: "read" | "write" = "write") {
    const protection = access === "read" ? PROT_READ : PROT_READ_WRITE;
    // Returned as a signed number: MAP_FAILED is −1, which a pointer type cannot say.
    const address = Number(libc().mmap(null, bytes, protection, MAP_SHARED, fd, 0));
    if (address === -1) throw new Error(`mmap of ${bytes} bytes failed with errno ${libc().errno()}`);
    this.bytes = bytes;
    this.#address = address;
  }

  /**
   * The bytes themselves, not a copy. JavaScriptCore counts them as heap while the view lives: keep
   * views small or short-lived.
   */
  view(offsetBytes: number, lengthBytes: number): ArrayBuffer {
    if (offsetBytes < 0 || lengthBytes < 1 || offsetBytes + lengthBytes > this.bytes) {
      throw new RangeError(`mapping: ${lengthBytes} bytes at ${offsetBytes} of ${this.bytes}`);
    }
    return toArrayBuffer(this.#mapped() as Pointer, offsetBytes, lengthBytes);
  }

  /**
   * Faults all pages in, so that their first writer does not pay for it. Best effort: an older kernel does
   * not know the advice, and the pages exist anyway.
   */
  async populate(): Promise<void> {
    const advice = platform.MADV_POPULATE_WRITE;
    if (advice === null) return;
    await inSlices(this.bytes, (offset, length) => libc().madvise(this.#mapped() + offset, length, advice));
  }

  /** Wakes every process that sleeps (FUTEX_WAIT) on the 32-bit word there. */
  wake(offsetBytes: number): void {
    libc().futexWake(this.#mapped() + offsetBytes);
  }

  /** Every view of it is dead from here on: touching one ends the process. */
  unmap(): void {
    if (this.#address === 0) return;
    libc().munmap(this.#address, this.bytes);
    this.#address = 0;
  }

  #mapped(): number {
    if (this.#address === 0) throw new Error("mapping: used after unmap");
    return this.#address;
  }
}
