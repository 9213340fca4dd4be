// Asks the server; what the page has already is not sent again.

const tags = new Map();

export class Missing extends Error {}

// {changed, data}: data is null where nothing changed since the last call with this key.
export async function get(path, parameters = {}, key = null) {
  const query = new URLSearchParams(parameters).toString();
  const address = query ? `${path}?${query}` : path;
  const headers = key && tags.get(key)?.address === address ? { "If-None-Match": tags.get(key).tag } : {};
  let response;
  try {
    response = await fetch(address, { headers, cache: "no-store", credentials: "same-origin" });
  } catch {
    throw new Error("The server does not answer; the page tries again.");
  }
  if (response.status === 304) return { changed: false, data: null };
  if (response.status === 401) throw new Error("This page needs its token: open the address that the server printed.");
  const data = await response.json();
  if (response.status === 404) throw new Missing(data.error ?? "not found");
  if (!response.ok) throw new Error(data.error ?? `The server answered ${response.status}.`);
  if (key) tags.set(key, { address, tag: response.headers.get("ETag") });
  return { changed: true, data };
}

export function forget() {
  tags.clear();
}
