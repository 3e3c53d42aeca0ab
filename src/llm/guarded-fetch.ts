/** The fetch of every request that leaves the gateway: it knows which hosts are this machine, and follows no redirect. */
import { isIP } from "node:net";
import { shownUrl } from "../secrets.ts";
import { hostOf, isLoopbackHost, type ProxyEnv, proxyOf } from "./proxy.ts";

export interface GuardedFetchOptions {
  readonly fetch: typeof fetch;
  /** Names the proxies. */
  readonly env: ProxyEnv;
  /** The addresses of a name. */
  readonly lookup: (host: string) => Promise<readonly string[]>;
  /** The addresses of this machine's interfaces. */
  readonly ownAddresses: () => readonly string[];
}

/**
 * A request to this machine never goes to a proxy, because no proxy reaches it; other requests go to the proxy that the
 * environment names. A redirect fails, because it would carry events to a host that the user did not name; a caller that
 * asks for `redirect: "manual"` sees it as a response.
 */
export function guardedFetch({ fetch: base, env, lookup, ownAddresses }: GuardedFetchOptions): typeof fetch {
  const here = new Map<string, Promise<boolean>>();
  const isHere = (host: string): Promise<boolean> => {
    const known = here.get(host) ?? isThisMachine(host, { lookup, ownAddresses });
    here.set(host, known);
    return known;
  };
  const guarded = async (input: string | URL | Request, init: RequestInit = {}): Promise<Response> => {
    const url = new URL(input instanceof Request ? input.url : String(input));
    const named = proxyOf(url, env);
    const proxy = named === null || (await isHere(hostOf(url))) ? false : named;
    // Bun's types do not know that `false` turns its own reading of the environment off.
    const response = await base(input, { ...init, redirect: "manual", proxy } as RequestInit);
    if (init.redirect !== "manual") await refuseRedirect(response, url);
    return response;
  };
  return guarded as typeof fetch;
}

async function isThisMachine(
  host: string,
  { lookup, ownAddresses }: Pick<GuardedFetchOptions, "lookup" | "ownAddresses">,
): Promise<boolean> {
  // A name that cannot be resolved here may be one that only the proxy knows.
  const addresses = isIP(host) !== 0 || isLoopbackHost(host) ? [host] : await lookup(host).catch(() => []);
  const own = ownAddresses();
  return addresses.some((address) => isLoopbackHost(address) || own.includes(address));
}

async function refuseRedirect({ status, headers, body }: Response, from: URL): Promise<void> {
  const location = headers.get("location");
  if (location === null || ![301, 302, 303, 307, 308].includes(status)) return;
  await body?.cancel();
  const to = URL.canParse(location, from.href) ? new URL(location, from.href).href : "nowhere";
  throw new Error(
    `it redirects to ${shownUrl(to)}, which is not followed; if that is right, pass that address`,
  );
}
