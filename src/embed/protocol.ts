/** The messages between the main thread and the embed Worker. */
import type { SerialisedError } from "../errors.ts";
import type { Calibration, LabelledVectors, Nearest } from "../nearest/nearest.ts";

/** Texts that are to be compared with the examples of an index. */
export interface Asked {
  readonly index: number;
  /** Which of the texts. */
  readonly wanted: readonly boolean[];
}

export type WorkerRequest =
  | {
      readonly id: number;
      readonly kind: "hash";
      readonly texts: readonly string[];
      readonly asked: Asked | null;
    }
  | { readonly id: number; readonly kind: "load"; readonly model: number; readonly folder: string }
  | {
      readonly id: number;
      readonly kind: "embed";
      readonly model: number;
      readonly texts: readonly string[];
      readonly asked: Asked | null;
    }
  | { readonly id: number; readonly kind: "unload"; readonly model: number }
  /** Replaces an index once it is learned; until then the one before answers. No labels: it is dropped. */
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
      readonly asked: Asked;
    };

export type WorkerReply =
  | {
      readonly id: number;
      readonly kind: "rows";
      readonly rows: Float32Array<ArrayBuffer>;
      /** Null where nothing was asked. */
      readonly nearest: readonly (Nearest | null)[] | null;
    }
  | { readonly id: number; readonly kind: "indexed"; readonly calibration: Calibration | null }
  | { readonly id: number; readonly kind: "nearest"; readonly nearest: readonly (Nearest | null)[] }
  | { readonly id: number; readonly kind: "loaded"; readonly name: string; readonly dim: number }
  | { readonly id: number; readonly kind: "unloaded" }
  | { readonly id: number; readonly kind: "failed"; readonly failure: SerialisedError };
