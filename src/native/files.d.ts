// A native library that is imported `with { type: "file" }` is the path of a file that can be opened: the file in node_modules if run
// from sources, an unpacked copy of the embedded bytes in the executable.
declare module "*.so" {
  const path: string;
  export default path;
}
declare module "*.so.1.14.0" {
  const path: string;
  export default path;
}
declare module "*.dylib" {
  const path: string;
  export default path;
}
