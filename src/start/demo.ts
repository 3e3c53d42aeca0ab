/** Plays the bundled conversations. */
import demoConversations from "../../examples/demo.json" with { type: "json" };
import { messageOf } from "../errors.ts";
import type { Log } from "../log.ts";

const PAUSE_MS_MIN = 300;
const PAUSE_MS_SPREAD = 900;

/** Sends the conversations to the gateway's own ingest at the pace at which people type, until it stops accepting. */
export async function playDemo(url: URL | string, token: string | null, log: Log): Promise<void> {
  const headers = {
    "content-type": "application/json",
    ...(token === null ? {} : { authorization: `Bearer ${token}` }),
  };
  for (let round = 1; ; round++) {
    for (const turn of demoConversations.turns) {
      await Bun.sleep(PAUSE_MS_MIN + PAUSE_MS_SPREAD * Math.random());
      const event = { ...turn, conversation_id: `${turn.conversation_id}-${round}` };
      const response = await fetch(new URL("/ingest", url), {
        method: "POST",
        headers,
        body: JSON.stringify(event),
      }).catch((error: unknown) => messageOf(error));
      if (typeof response === "string" || response.status === 503) return;
      log("info", `demo ${event.actor}: ${event.message}`);
    }
  }
}
