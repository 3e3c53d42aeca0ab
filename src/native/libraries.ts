/**
 * The native libraries of DuckDB and ONNX Runtime, for each platform that the executable is built for.
 *
 * The bundler embeds the packages' `.node` files by itself, but not the shared libraries that those look for beside themselves
 * (`$ORIGIN`, `@loader_path`): in the executable they would be missing. So each library is imported as a file and opened here, before
 * its package is loaded. The dynamic linker then finds it among the loaded libraries, by its SONAME (Linux) or install name (macOS).
 *
 * `process.platform` and `process.arch` are constants in a build (scripts/build.ts). So only one branch remains, and only one platform's
 * libraries are embedded.
 */
import { dlopen } from "bun:ffi";
import { GatewayError, messageOf } from "../errors.ts";

/** The platforms that scripts/build.ts builds for. It refuses all others by name. */
export const PLATFORMS = ["linux-x64", "linux-arm64", "darwin-arm64"] as const;

/** The path of the shared library that `@duckdb/node-bindings` needs. */
async function duckdbLibrary(): Promise<string> {
  if (process.platform === "linux" && process.arch === "x64") {
    return (await import("@duckdb/node-bindings-linux-x64/libduckdb.so", { with: { type: "file" } })).default;
  }
  if (process.platform === "linux" && process.arch === "arm64") {
    return (await import("@duckdb/node-bindings-linux-arm64/libduckdb.so", { with: { type: "file" } }))
      .default;
  }
  if (process.platform === "darwin" && process.arch === "arm64") {
    return (await import("@duckdb/node-bindings-darwin-arm64/libduckdb.dylib", { with: { type: "file" } }))
      .default;
  }
  throw unsupported("DuckDB");
}

/** The path of the shared library that `onnxruntime-node` needs. */
async function onnxLibrary(): Promise<string> {
  if (process.platform === "linux" && process.arch === "x64") {
    return (
      await import("onnxruntime-node/bin/napi-v3/linux/x64/libonnxruntime.so.1.14.0", {
        with: { type: "file" },
      })
    ).default;
  }
  if (process.platform === "linux" && process.arch === "arm64") {
    return (
      await import("onnxruntime-node/bin/napi-v3/linux/arm64/libonnxruntime.so.1.14.0", {
        with: { type: "file" },
      })
    ).default;
  }
  if (process.platform === "darwin" && process.arch === "arm64") {
    return (
      await import("onnxruntime-node/bin/napi-v3/darwin/arm64/libonnxruntime.1.14.0.dylib", {
        with: { type: "file" },
      })
    ).default;
  }
  throw unsupported("ONNX Runtime");
}

function unsupported(library: string): Error {
  return new Error(
    `native: ${library} on ${process.platform}-${process.arch}: there is no build for this platform; ` +
      `supported are ${PLATFORMS.join(", ")}`,
  );
}

/**
 * Opens a library for the rest of the process.
 * @param symbol any symbol of the library: `dlopen` wants one
 * @throws GatewayError `temp_folder`: in the executable a library is first written to the temporary folder. If opening fails, that folder
 *   is most likely read-only, full or mounted noexec
 */
function preload(library: string, path: string, symbol: string): void {
  try {
    dlopen(path, { [symbol]: { args: [], returns: "ptr" } });
  } catch (error) {
    const folder = process.env.BUN_TMPDIR || process.env.TMPDIR || "/tmp";
    throw new GatewayError({
      code: "temp_folder",
      operation: "native: load",
      object: library,
      detail: `it could not be unpacked to ${folder} and opened there (${messageOf(error)})`,
      hint: "name a folder that is writable, has 100 MB free and is not mounted noexec: BUN_TMPDIR=DIR",
      cause: error,
    });
  }
}

/** Loads libduckdb, which `@duckdb/node-bindings` needs. */
export async function preloadDuckdb(): Promise<void> {
  preload("DuckDB", await duckdbLibrary(), "duckdb_library_version");
}

/** Loads libonnxruntime, which `onnxruntime-node` needs. */
export async function preloadOnnx(): Promise<void> {
  preload("ONNX Runtime", await onnxLibrary(), "OrtGetApiBase");
}
