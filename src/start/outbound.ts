/** The one fetch for everything that the gateway asks of others. */
import { lookup } from "node:dns/promises";
import { networkInterfaces } from "node:os";
import { openFetch } from "../llm/llm.ts";

/** How long a name may take to resolve before it counts as one of another machine. */
const LOOKUP_MS = 1000;

/** Its proxies are those of this process's environment; this machine is always asked directly. */
export function outboundFetch(): typeof fetch {
  return openFetch({ fetch, env: process.env, lookup: addressesOf, ownAddresses });
}

async function addressesOf(host: string): Promise<string[]> {
  const slow = Bun.sleep(LOOKUP_MS).then(() => []);
  const found = lookup(host, { all: true }).then((all) => all.map(({ address }) => address));
  return Promise.race([found, slow]);
}

function ownAddresses(): string[] {
  return Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address));
}
