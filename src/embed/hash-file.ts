/** Hashes of files, for which they are read in pieces. */
import { createReadStream, statSync } from "node:fs";

/** @param kind git: SHA-1 of "blob LENGTH\0" and the content, git's own hash of a file. @returns hexadecimal digits. */
export async function hashFile(path: string, kind: "sha256" | "git"): Promise<string> {
  const hasher = new Bun.CryptoHasher(kind === "git" ? "sha1" : "sha256");
  if (kind === "git") hasher.update(`blob ${statSync(path).size}\0`);
  for await (const chunk of createReadStream(path)) hasher.update(chunk as Uint8Array);
  return hasher.digest("hex");
}
