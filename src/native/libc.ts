/**
 * The C library through bun:ffi: the few calls that node:fs lacks, and every constant that differs between Linux and macOS. Code that
 * only macOS runs is marked as untested.
 */
import { dlopen, type Pointer, ptr, read, toArrayBuffer } from "bun:ffi";
import { closeSync, ftruncateSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";

interface Platform {
  /** File names, tried in this order. */
  readonly libraries: readonly string[];
  readonly errnoSymbol: "__errno_location" | "__error";
  /** `open` flags that node:fs does not name. */
  readonly O_CLOEXEC: number;
  readonly EWOULDBLOCK: number;
  readonly ENOSPC: number;
  readonly EINTR: number;
  /** Advice that faults pages in for writing (Linux 5.14); null if the platform has none. */
  readonly MADV_POPULATE_WRITE: number | null;
  /** The number of the futex system call; null if the platform has none. */
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
const POLLOUT = 4;
const PROT_READ_EXECUTE = 5;
const MAP_PRIVATE = 2;
const PROBE_BYTES = 4096;
const WAKE_ALL = 0x7fffffff;
/** Bounds of the bytes that are allocated or populated at once, which aims at 1 to 2 ms. */
const SLICE_BYTES_MIN = 1 << 20;
const SLICE_BYTES_MAX = 8 << 20;
const SLICE_MS = 2;

const SYMBOLS = {
  flock: { args: ["i32", "i32"], returns: "i32" },
  mmap: { args: ["ptr", "u64", "i32", "i32", "i32", "i64"], returns: "i64" },
  munmap: { args: ["u64", "u64"], returns: "i32" },
  madvise: { args: ["u64", "u64", "i32"], returns: "i32" },
  tcgetattr: { args: ["i32", "ptr"], returns: "i32" },
  tcsetattr: { args: ["i32", "i32", "ptr"], returns: "i32" },
  setpriority: { args: ["i32", "u32", "i32"], returns: "i32" },
  poll: { args: ["ptr", "u64", "i32"], returns: "i32" },
  execve: { args: ["ptr", "ptr", "ptr"], returns: "i32" },
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
  /** @returns 0, or the errno */
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
      symbols.syscall(platform.futex as number, address, FUTEX_WAKE, WAKE_ALL, 0, 0, 0);
    },
  };
}

// Untested. macOS has no posix_fallocate, so zeros are written to make the pages exist.
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
    // Readers on macOS poll.
    futexWake: () => {},
  };
}

/**
 * `flock(LOCK_EX | LOCK_NB)`.
 * @returns false if another descriptor holds the lock
 * @throws Error for any other failure
 */
export function lockExclusive(fd: number): boolean {
  if (libc().flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const errno = libc().errno();
  if (errno === platform.EWOULDBLOCK) return false;
  throw new Error(`flock failed with errno ${errno}`);
}

/** Resolves after the event loop has run what is due. */
export const nextTurn = (): Promise<void> => new Promise((done) => setImmediate(done));

/**
 * Runs `work` over all bytes in slices so short that the thread's other work hardly waits. Stops at the first errno and returns it.
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
 * @returns false if the disk has no room for them; part of the file may exist then
 * @throws Error for any other failure
 */
export async function allocateFile(fd: number, bytes: number): Promise<boolean> {
  const errno = await inSlices(bytes, (offset, length) => libc().allocate(fd, offset, length));
  if (errno !== 0 && errno !== platform.ENOSPC) throw new Error(`posix_fallocate failed with errno ${errno}`);
  return errno === 0;
}

/**
 * Lowers the priority of the calling thread (on Linux; elsewhere of the process) by `nice`, 0 to 19.
 * @returns whether the system accepted it
 */
export function lowerThreadPriority(nice: number): boolean {
  return libc().setpriority(PRIO_PROCESS, 0, nice) === 0;
}

/**
 * Tests whether a file in this folder can be written and mapped executable.
 * @returns null if it can, otherwise the reason
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

/** A shared mapping of a file. Its owner must drop all views before it unmaps. */
export class Mapping {
  readonly bytes: number;
  #address: number;

  /**
   * @param bytes to map from the file's start; every page must exist (see {@link allocateFile})
   * @param access with "read", a store into a view ends the process
   * @throws Error if mmap fails
   */
  constructor(fd: number, bytes: number, access: "read" | "write" = "write") {
    const protection = access === "read" ? PROT_READ : PROT_READ_WRITE;
    // mmap is declared to return a signed number, because MAP_FAILED is −1 and a pointer type cannot hold that.
    const address = Number(libc().mmap(null, bytes, protection, MAP_SHARED, fd, 0));
    if (address === -1) throw new Error(`mmap of ${bytes} bytes failed with errno ${libc().errno()}`);
    this.bytes = bytes;
    this.#address = address;
  }

  /**
   * The bytes themselves, not a copy. JavaScriptCore counts them as heap while the view lives, so keep views small or short-lived.
   */
  view(offsetBytes: number, lengthBytes: number): ArrayBuffer {
    if (offsetBytes < 0 || lengthBytes < 1 || offsetBytes + lengthBytes > this.bytes) {
      throw new RangeError(`mapping: ${lengthBytes} bytes at ${offsetBytes} of ${this.bytes}`);
    }
    return toArrayBuffer(this.#mapped() as Pointer, offsetBytes, lengthBytes);
  }

  /**
   * Faults all pages in, so that the first write to each costs nothing extra. Best effort: an older kernel does not know the advice,
   * and the pages exist anyway.
   */
  async populate(): Promise<void> {
    const advice = platform.MADV_POPULATE_WRITE;
    if (advice === null) return;
    await inSlices(this.bytes, (offset, length) => libc().madvise(this.#mapped() + offset, length, advice));
  }

  /** Wakes every process that sleeps (FUTEX_WAIT) on the 32-bit word at this offset. */
  wake(offsetBytes: number): void {
    libc().futexWake(this.#mapped() + offsetBytes);
  }

  /** Unmaps the file. Touching a view of it afterwards ends the process. */
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

/** What a write to a pipe that is ready takes without waiting (PIPE_BUF on Linux; macOS guarantees 512 and takes more). */
export const READY_BYTES = 4096;

/**
 * Waits until a write of {@link READY_BYTES} to `fd` does not have to wait, or fails at once (its reader is gone).
 * @param timeoutMs 0 to look only, −1 to wait for ever
 */
export function isWritable(fd: number, timeoutMs: number): boolean {
  const pollfd = new Int32Array([fd, POLLOUT]);
  return libc().poll(ptr(pollfd), 1, timeoutMs) !== 0;
}

/**
 * Replaces this process by another program, with the same process id. Returns only if that fails.
 * @param args the first is the program's name.
 */
export function replaceProcess(
  path: string,
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): void {
  const pairs = Object.entries(env).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${value}`],
  );
  const [program, argv, envp] = [cString(path), cStrings(args), cStrings(pairs)];
  libc().execve(ptr(program), ptr(argv.pointers), ptr(envp.pointers));
}

function cString(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}

/** An array of C strings that ends with a null pointer. `texts` must live as long as it is used. */
function cStrings(list: readonly string[]): { pointers: BigUint64Array; texts: Uint8Array[] } {
  const texts = list.map(cString);
  return { pointers: BigUint64Array.from([...texts.map((text) => BigInt(ptr(text))), 0n]), texts };
}

/** More than a termios has on any platform. */
const TERMIOS_BYTES = 256;
const TCSANOW = 0;

/**
 * Remembers the modes of a terminal.
 * @returns sets them again, without waiting for output that the terminal has not read, as node's setRawMode would
 */
export function rememberTerminal(fd: number): () => void {
  const modes = new Uint8Array(TERMIOS_BYTES);
  if (libc().tcgetattr(fd, ptr(modes)) !== 0) return () => {};
  return () => {
    libc().tcsetattr(fd, TCSANOW, ptr(modes));
  };
}
