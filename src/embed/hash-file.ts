/** Hashes files without holding them in memory. */
import { createReadStream, statSync } from "node:fs";

/**
 * @param kind git: git's own hash of a file, which is SHA-1 over "blob LENGTH\0" and the content.
 * @returns the hash in hexadecimal digits.
 */
export async function hashFile(path: string, kind: "sha256" | "git"): Promise<string> {
  const hasher = new Bun.CryptoHasher(kind === "git" ? "sha1" : "sha256");
  if (kind === "git") hasher.update(`blob ${statSync(path).size}\0`);
  for await (const chunk of createReadStream(path)) hasher.update(chunk as Uint8Array);
  return hasher.digest("hex");
}
