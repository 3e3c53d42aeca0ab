/** The messages between the main thread and the embed Worker. */
import type { SerialisedError } from "../errors.ts";
import type { Calibration, LabelledVectors, Nearest } from "../nearest/nearest.ts";

/** Which texts to compare with the examples of an index. */
export interface Comparison {
  readonly index: number;
  /** One per text. */
  readonly wanted: readonly boolean[];
}

export type WorkerRequest =
  | {
      readonly id: number;
      readonly kind: "hash";
      readonly texts: readonly string[];
      readonly comparison: Comparison | null;
    }
  | { readonly id: number; readonly kind: "load"; readonly model: number; readonly folder: string }
  | {
      readonly id: number;
      readonly kind: "embed";
      readonly model: number;
      readonly texts: readonly string[];
      readonly comparison: Comparison | null;
    }
  | { readonly id: number; readonly kind: "unload"; readonly model: number }
  /** Replaces an index once the new one is learned; the old one stays in force until then. Without labels, drops it. */
  | {
      readonly id: number;
      readonly kind: "index";
      readonly index: number;
      readonly examples: LabelledVectors;
    }
  | {
      readonly id: number;
      readonly kind: "nearest";
      readonly rows: Float32Array<ArrayBuffer>;
      readonly comparison: Comparison;
    };

export type WorkerReply =
  | {
      readonly id: number;
      readonly kind: "rows";
      readonly rows: Float32Array<ArrayBuffer>;
      /** Null if the request had no comparison. */
      readonly nearest: readonly (Nearest | null)[] | null;
    }
  | { readonly id: number; readonly kind: "indexed"; readonly calibration: Calibration | null }
  | { readonly id: number; readonly kind: "nearest"; readonly nearest: readonly (Nearest | null)[] }
  | { readonly id: number; readonly kind: "loaded"; readonly name: string; readonly dim: number }
  | { readonly id: number; readonly kind: "unloaded" }
  | { readonly id: number; readonly kind: "failed"; readonly failure: SerialisedError };
