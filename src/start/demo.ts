/** Plays the bundled conversations. */
import demoConversations from "../../examples/demo.json" with { type: "json" };
import type { Clock } from "../clock.ts";
import { messageOf } from "../errors.ts";
import type { Log } from "../log.ts";

const PAUSE_MS_MIN = 300;
const PAUSE_MS_SPREAD = 900;
/** Refusals in a row after which the demo ends. */
const REFUSALS_MAX = 20;

export interface DemoOptions {
  /** The gateway's own address. */
  readonly url: URL | string;
  readonly token: string | null;
  readonly log: Log;
  readonly fetch: typeof fetch;
  readonly clock: Pick<Clock, "sleep">;
  /** Whether the gateway stops: then it is no news that it refuses events. */
  readonly isStopping: () => boolean;
}

/** Sends the conversations to the gateway's own ingest at the pace at which people type, until the gateway stops. */
export async function playDemo(options: DemoOptions): Promise<void> {
  const { log, clock } = options;
  let refusals = 0;
  for (let round = 1; ; round++) {
    for (const turn of demoConversations.turns) {
      await clock.sleep(PAUSE_MS_MIN + PAUSE_MS_SPREAD * Math.random());
      const event = { ...turn, conversation_id: `${turn.conversation_id}-${round}` };
      const sent = await send(options, event);
      if (sent.outcome !== "received" && options.isStopping()) return;
      if (sent.outcome === "received") {
        refusals = 0;
        log("info", `demo ${event.actor}: ${event.message}`);
        continue;
      }
      refusals += 1;
      const what = `demo: send an event to ${options.url}: ${sent.why}`;
      if (sent.outcome === "never" || refusals === REFUSALS_MAX) {
        return log("error", `${what}; the demo has ended`);
      }
      if (refusals === 1) log("warn", `${what}; trying the next one`);
    }
  }
}

type Sent =
  | { readonly outcome: "received" }
  /** never: it would be refused again. */
  | { readonly outcome: "refused" | "never"; readonly why: string };

async function send({ url, token, fetch }: DemoOptions, event: object): Promise<Sent> {
  const headers = {
    "content-type": "application/json",
    ...(token === null ? {} : { authorization: `Bearer ${token}` }),
  };
  let status: number;
  let body: string;
  try {
    const response = await fetch(new URL("/ingest", url), {
      method: "POST",
      headers,
      body: JSON.stringify(event),
    });
    status = response.status;
    body = await response.text();
  } catch (error) {
    return { outcome: "refused", why: messageOf(error) };
  }
  const reply = parsed(body);
  if (status === 200 && reply.status === "received") return { outcome: "received" };
  const why = `the response is ${status}: ${reply.detail ?? "not one of the gateway"}`;
  return { outcome: status >= 500 || status === 429 ? "refused" : "never", why };
}

function parsed(text: string): { status?: unknown; detail?: unknown } {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}
