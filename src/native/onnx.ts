/** The runtime of local embedding models, with its native library. The only module that imports its packages. */
import "./onnx-preload.ts";

export * from "@xenova/transformers";
export * as onnxruntime from "onnxruntime-node";
