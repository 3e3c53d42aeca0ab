/** The embedding runtime, native library included. The only module that imports the packages. */
import "./onnx-preload.ts";

export * from "@xenova/transformers";
export * as onnxruntime from "onnxruntime-node";
