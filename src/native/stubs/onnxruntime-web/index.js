// The native runtime is the only one: WebAssembly must never take over in silence.
module.exports = { env: { wasm: {} } };
