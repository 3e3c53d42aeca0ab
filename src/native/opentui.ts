/** OpenTUI. Its native library needs no preloading: the package embeds it as a file. */
export * from "@opentui/core";
export { createTestRenderer } from "@opentui/core/testing";
