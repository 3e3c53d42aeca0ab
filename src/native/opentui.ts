/** OpenTUI, native library included: it brings its own as an embedded file. */
export * from "@opentui/core";
export { createTestRenderer } from "@opentui/core/testing";
