/** The form of one request, which changes with each refusal until the endpoint takes it. */
import { complaintOf, REPLY_TOKENS_MIN } from "./contexts.ts";
import { type Failure, failure } from "./failure.ts";
import { blame, type Feature, type Forms, type Message, tokensOf } from "./forms.ts";

/** The reason of a failure for want of room. */
export const TOO_LONG = "too_long";
/** How often one request is sent again in another form. */
const FORMS_MAX = 5;
/** After a refusal that tells no number, this many times fewer tokens are asked for. */
const FEWER = 8;

/** What is known of the model that is asked. */
interface Asked {
  readonly forms: Forms;
  readonly model: string;
}

/** Refused parts are left out, and fewer tokens are asked for. What was learned is remembered once a form is taken. */
export class Form {
  readonly #asked: Asked;
  readonly #wanted: number;
  readonly #without: Set<Feature>;
  readonly #learned = new Set<Feature>();
  #changes = 0;
  #tokens: number;
  /** After a refusal without a number: what is tried. */
  #tried = Number.POSITIVE_INFINITY;
  #promptChars = 0;
  #complaint = "the model's context is too small for the question";

  /** @param maxTokens for the reply. */
  constructor(asked: Asked, maxTokens: number) {
    this.#asked = asked;
    this.#wanted = maxTokens;
    this.#tokens = maxTokens;
    this.#without = new Set(asked.forms.refusedBy(asked.model));
  }

  get without(): ReadonlySet<Feature> {
    return this.#without;
  }

  /** Leaves a part out, without blaming the model for it. */
  leaveOut(feature: Feature): void {
    this.#without.add(feature);
  }

  /** Adds the number of tokens that may be asked for beside these messages; null: they leave no room for a reply. */
  withTokens<T extends { readonly messages: readonly Message[] }>(
    body: T,
  ): (T & ReturnType<typeof tokensOf>) | null {
    this.#promptChars = body.messages.reduce((chars, { content }) => chars + content.length, 0);
    const tokens = this.#affordable();
    if (tokens === null) return null;
    this.#tokens = tokens;
    return { ...body, ...tokensOf(tokens, this.#without) };
  }

  /** Why {@link withTokens} gave nothing. */
  get noRoom(): Failure {
    const detail = `${this.#complaint}; load the model with a larger context`;
    return failure(TOO_LONG, detail, { retryable: false, weight: 0.6 });
  }

  #affordable(): number | null {
    const { forms, model } = this.#asked;
    const tokens = forms.contexts.tokensFor(model, Math.min(this.#wanted, this.#tried), this.#promptChars);
    return this.#tried < REPLY_TOKENS_MIN ? null : tokens;
  }

  /** Changes after a refusal. @returns false: no other form is to be tried */
  adapts(failed: Failure): boolean {
    if (this.#changes++ >= FORMS_MAX) return false;
    const { forms, model } = this.#asked;
    const complaint = complaintOf(failed, this.#tokens);
    if (complaint !== null) {
      forms.contexts.learn(model, complaint, this.#promptChars);
      this.#complaint = failed.detail;
      const fewer = this.#affordable();
      // Without a number that helps, fewer are tried. No room at all is told by the next `withTokens`.
      if (fewer !== null && fewer >= this.#tokens) this.#tried = Math.floor(this.#tokens / FEWER);
      return true;
    }
    const blamed = blame(failed, this.#without);
    if (blamed === null) return false;
    this.#without.add(blamed);
    this.#learned.add(blamed);
    return true;
  }

  /** Remembers what was left out and how many tokens were taken, now that the endpoint has accepted the request. */
  accepted(): void {
    const { forms, model } = this.#asked;
    forms.learn(model, this.#learned);
    if (this.#tried < this.#wanted)
      forms.contexts.learn(model, { replyTokens: this.#tried }, this.#promptChars);
  }
}
