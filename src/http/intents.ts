/** The routes of labelled examples: /api/intents and /api/intents/LABEL. */
import * as v from "valibot";
import type { Changed, INTENT_LIMITS, IntentExamples, IntentsState } from "../brain/brain.ts";
import type { Handled, Refused, RouteRequest } from "./contract.ts";
import { jsonOf } from "./json.ts";

/** JSON.parse holds the thread for a few ms with this much. @bound a body of /api/intents/LABEL | 413 */
const BODY_BYTES_MAX = 1024 * 1024;
const CONTROL_CHARACTER = /\p{Cc}/u;

export interface IntentsOptions {
  readonly limits: typeof INTENT_LIMITS;
  readonly examples: {
    list(): readonly IntentExamples[];
    get(label: string): IntentExamples | null;
    put(label: string, examples: readonly string[]): Promise<Changed>;
    delete(label: string): Promise<{ readonly inForce: boolean } | null>;
    readonly state: IntentsState;
  };
}

export class IntentsRoutes {
  readonly #o: IntentsOptions;
  readonly #schema: v.GenericSchema<unknown, { examples: string[] }>;

  constructor(options: IntentsOptions) {
    const { examplesPerLabelMax, exampleCharsMax } = options.limits;
    this.#o = options;
    this.#schema = v.strictObject(
      {
        examples: v.pipe(
          v.array(
            v.pipe(
              v.string("an example is not a string"),
              v.maxLength(exampleCharsMax, `an example has more than ${exampleCharsMax} characters`),
              v.check((text) => text.isWellFormed(), "an example contains half of a surrogate pair"),
              v.check((text) => text.trim() !== "", "an example is empty"),
            ),
            "examples is not a list",
          ),
          v.minLength(1, "there are no examples"),
          v.maxLength(examplesPerLabelMax, `there are more than ${examplesPerLabelMax} examples`),
        ),
      },
      "the body must be an object with examples and nothing else",
    );
  }

  list(): Handled {
    const { state, detail, calibration, withoutVector } = this.#o.examples.state;
    const body = JSON.stringify({
      intents: this.#o.examples.list(),
      state,
      detail,
      threshold: calibration?.threshold ?? null,
      accuracy: calibration?.accuracy ?? null,
      answered: calibration?.answered ?? null,
      examples_without_vector: withoutVector,
    });
    return { body };
  }

  show({ parameter }: RouteRequest): Handled {
    const label = this.#labelOf(parameter);
    if (typeof label !== "string") return label;
    const examples = this.#o.examples.get(label);
    return examples === null ? unknown(label) : { body: JSON.stringify(examples) };
  }

  async delete({ parameter }: RouteRequest): Promise<Handled> {
    const label = this.#labelOf(parameter);
    if (typeof label !== "string") return label;
    const deleted = await this.#o.examples.delete(label);
    return deleted === null ? unknown(label) : this.#changed(label, 0, deleted.inForce);
  }

  async put({ parameter, req, hold }: RouteRequest): Promise<Handled> {
    const label = this.#labelOf(parameter);
    if (typeof label !== "string") return label;
    const body = await jsonOf(req, hold, { bytesMax: BODY_BYTES_MAX, hint: HINT });
    if ("code" in body) return body;
    const parsed = v.safeParse(this.#schema, body.json, { abortEarly: true });
    if (!parsed.success) {
      const [issue] = parsed.issues;
      const at = v.getDotPath(issue);
      return {
        code: "invalid_body",
        detail: at === null ? issue.message : `${at}: ${issue.message}`,
        hint: HINT,
      };
    }
    const changed = await this.#o.examples.put(label, parsed.output.examples);
    if ("refused" in changed) return { code: "invalid_body", detail: changed.refused, hint: HINT };
    const count = this.#o.examples.get(label)?.examples.length ?? 0;
    return this.#changed(label, count, changed.inForce);
  }

  #labelOf(encoded: string): string | Refused {
    return labelOf(encoded, this.#o.limits.labelCharsMax);
  }

  /** 202 means that the change is kept and comes into force later. */
  #changed(label: string, examples: number, inForce: boolean): Handled {
    const threshold = this.#o.examples.state.calibration?.threshold ?? null;
    const body = JSON.stringify({ label, examples, in_force: inForce, threshold });
    return { status: inForce ? 200 : 202, body };
  }
}

const HINT = 'send {"examples":["…","…"]}';

function unknown(label: string): Refused {
  return {
    code: "not_found",
    detail: `there are no examples of ${JSON.stringify(label)}`,
    hint: "GET /api/intents lists the labels",
  };
}

function labelOf(encoded: string, charsMax: number): string | Refused {
  const hint = `a label has 1 to ${charsMax} characters, percent-encoded, without control characters or white space around it`;
  let label: string;
  try {
    label = decodeURIComponent(encoded);
  } catch {
    return {
      code: "bad_parameter",
      detail: `the label ${JSON.stringify(encoded)} is not percent-encoded UTF-8`,
      hint,
    };
  }
  if (label !== "" && label.length <= charsMax && label.trim() === label && !CONTROL_CHARACTER.test(label))
    return label;
  return {
    code: "bad_parameter",
    detail: `the label ${JSON.stringify(label.slice(0, 80))} is not allowed`,
    hint,
  };
}
