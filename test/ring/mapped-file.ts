/** A mapped file for the tests of the ring's parts. */
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Mapping } from "../../src/native/libc.ts";

// As in docs/FRAME.md, and not through src/frame.ts: the two must agree.
export const HEADER = 64;
export const FRAME = 4224;

export class MappedFile implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "ring-part-"));
  readonly path = join(this.folder, "ring");
  readonly mapping: Mapping;

  /** A file of zeros, as large as a ring of `capacity` slots. */
  constructor(capacity: number) {
    const fd = openSync(this.path, "w+");
    ftruncateSync(fd, HEADER + capacity * FRAME);
    this.mapping = new Mapping(fd, HEADER + capacity * FRAME);
    closeSync(fd);
  }

  /** The current content of the file. */
  view(): DataView {
    const bytes = readFileSync(this.path);
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u64(offset: number): bigint {
    return this.view().getBigUint64(offset, true);
  }

  u32(offset: number): number {
    return this.view().getUint32(offset, true);
  }

  [Symbol.dispose](): void {
    this.mapping.unmap();
    rmSync(this.folder, { recursive: true });
  }
}
