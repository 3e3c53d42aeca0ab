/** The `x-request-id` of each response: the client's own if it is harmless in logs and headers, else a new one. */

/** Visible ASCII, at most 128. */
const SANE_REQUEST_ID = /^[\x21-\x7e]{1,128}$/;

export class RequestIds {
  readonly #prefix: string;
  #made = 0;

  /** @param prefix tells the ids of this process from those of others. */
  constructor(prefix: string) {
    this.#prefix = prefix;
  }

  of(headers: Headers): string {
    const given = headers.get("x-request-id");
    return given !== null && SANE_REQUEST_ID.test(given) ? given : this.next();
  }

  next(): string {
    return `${this.#prefix}-${(this.#made++).toString(36)}`;
  }
}
