/** The client's metrics. */

const LATENCIES_MAX = 64;

export class Tally {
  readonly #latenciesMs: number[] = [];
  readonly #failures = new Map<string, number>();
  calls = 0;
  corrections = 0;
  #answers = 0;

  succeeded(elapsedMs: number): void {
    this.#answers++;
    this.#latenciesMs.push(elapsedMs);
    if (this.#latenciesMs.length > LATENCIES_MAX) this.#latenciesMs.shift();
  }

  failed(reason: string): void {
    this.#failures.set(reason, (this.#failures.get(reason) ?? 0) + 1);
  }

  get counters(): Record<string, number> {
    const counters: Record<string, number> = {
      llm_calls_total: this.calls,
      llm_answers_total: this.#answers,
      llm_corrections_total: this.corrections,
    };
    let failures = 0;
    for (const [reason, count] of this.#failures) {
      counters[`llm_failed_${reason}_total`] = count;
      failures += count;
    }
    counters.llm_failures_total = failures;
    return counters;
  }

  /** Latencies of the newest LATENCIES_MAX answers. */
  get gauges(): Record<string, number> {
    const sorted = this.#latenciesMs.toSorted((a, b) => a - b);
    return {
      llm_latency_p50_ms: sorted[Math.floor(sorted.length / 2)] ?? 0,
      llm_latency_max_ms: sorted.at(-1) ?? 0,
    };
  }
}
