// The service's own API: every answer is an envelope, and an error is its words.

import { hearClock, said, t } from "./words.js";

const SNAPSHOT = "/v1/compute/vsd/snapshot";

/** Trouble in a line: no answer at all is one thing, and what the service says of its own another. */
export const isAway = (failure) => failure.scode === AWAY.scode;

export class Failure extends Error {
  constructor(envelope, requestId) {
    super(envelope.message);
    this.scode = envelope.scode;
    this.message_cn = envelope.message_cn;
    this.desc = envelope.desc;
    this.requestId = requestId;
  }
}

/** Some disks of several were not rolled back: each is named, with its own words. */
export class DisksFailure extends Failure {
  constructor(done, failed) {
    const names = { done: done.join(", "), failed: failed.map((one) => one.disk).join(", ") };
    const message = t(done.length ? "disksPartly" : "disksNoneDone", names);
    super({ scode: failed[0].scode, message, message_cn: message,
      desc: failed.map((one) => `${one.disk}: ${said(one)}${one.desc && ` (${one.desc})`}`).join("\n") }, "");
    this.done = done;
  }
}

const AWAY = {
  scode: -1,
  message: "The service does not answer. What was begun goes on; look again when it is back.",
  message_cn: "服务没有响应。已开始的操作会继续进行，请在服务恢复后再查看。",
};

// what is listened for where a session has ended
let onSignedOut = () => {};
export const whenSignedOut = (listener) => { onSignedOut = listener; };
export const SIGNED_OUT = 25001, UNKNOWN = 22002;

async function call(method, path, { query, body } = {}) {
  const url = query ? `${path}?${new URLSearchParams(query)}` : path;
  let answer, envelope;
  try {
    answer = await fetch(url, {
      method,
      credentials: "same-origin",
      redirect: "error",
      headers: { "X-Stillframe-Console": "1", ...(body ? { "Content-Type": "application/json" } : {}) },
      body: body ? JSON.stringify(body) : undefined,
    });
    hearClock(answer.headers.get("Date"));
    envelope = await answer.json();
  } catch (error) {
    throw new Failure({ ...AWAY, desc: String(error.message ?? error) }, "");
  }
  if (envelope.scode === 0) return envelope.data;
  const failure = new Failure(envelope, answer.headers.get("X-Request-Id") ?? "");
  if (failure.scode === SIGNED_OUT && !path.startsWith("/v1/stillframe/session")) onSignedOut();
  throw failure;
}

const get = (path, query) => call("GET", path, { query });
const post = (path, body) => call("POST", path, { body: { cluster_uuid: "", ...body } });

export const who = () => get("/v1/stillframe/session");
export const signIn = (key) => call("POST", "/v1/stillframe/session/open", { body: { api_key: key } });
export const signOut = () => call("POST", "/v1/stillframe/session/end", { body: {} });

export const machines = (query) => get("/v1/compute/list", { page_size: "0", ...query });
export const overview = (vm, fold, opened) =>
  get("/v1/stillframe/vm/overview", { cluster_uuid: "", compute_uuid: vm, fold: String(fold), opened: opened.join(",") });
export const consequences = (vm, name) =>
  get("/v1/stillframe/snapshot/consequences", { cluster_uuid: "", compute_uuid: vm, name });
export const snapshot = (vm, name) => get(`${SNAPSHOT}/get`, { cluster_uuid: "", compute_uuid: vm, name });

export const take = (vm, name, description, memory) =>
  post(`${SNAPSHOT}/create`, { compute_uuid: vm, name, description, domain_memory: memory });
export const edit = (vm, name, description) => post(`${SNAPSHOT}/modify`, { compute_uuid: vm, name, description });
export const rollBack = (vm, name, memory) =>
  post(`${SNAPSHOT}/rollback`, { compute_uuid: vm, name, domain_memory: memory });
export const remove = (vm, name) => post(`${SNAPSHOT}/delete`, { compute_uuid: vm, name });
export const rollBackDisks = (vm, disks) =>
  post("/v1/compute/volume/snapshot/rollback", { compute_uuid: vm, disk_snapshot_list: disks });
export const power = (vm, what) => post(`/v1/compute/${what}`, { compute_uuid: vm });

export const tasks = (query) => get(`${SNAPSHOT}/task/list`, { cluster_uuid: "", ...query });
export const task = (uuid) => get(`${SNAPSHOT}/task/get`, { cluster_uuid: "", uuid });
export const cancel = (uuid) => post(`${SNAPSHOT}/task/cancel`, { uuid });

/** A picture's address on the service that this page came from, whatever name it was signed under. */
export function picture(url) {
  if (!url) return "";
  const { pathname, search } = new URL(url, location.href);
  return pathname + search;
}

/** Tells `onState` what goes on, whenever it has changed; begins again by itself. Returns what ends it.

A page that nobody sees listens to nothing: a browser has six connections to a service for all of its tabs together, and
each stream holds one. Where one is refused, it is asked who is signed in: why, an event source cannot read. */
export function listen(vm, onState, onTrouble) {
  let source = null, again, over = false;
  const open = () => {
    if (over || document.hidden) return;
    source = new EventSource(`/v1/stillframe/events?${new URLSearchParams({ compute_uuid: vm })}`);
    source.addEventListener("state", (event) => { onTrouble(null); onState(JSON.parse(event.data)); });
    source.addEventListener("end", (event) => {
      const envelope = JSON.parse(event.data);
      source.close();
      if (envelope.scode === SIGNED_OUT) { onSignedOut(); return; }
      if (envelope.scode) onTrouble(new Failure(envelope, ""));
      // one that does not exist for us will not come to exist
      if (envelope.scode === UNKNOWN) over = true;
      else again = setTimeout(open, envelope.scode ? 5000 : 200);
    });
    source.onerror = () => {
      onTrouble(new Failure({ ...AWAY, desc: "" }, ""));
      if (source.readyState === EventSource.CLOSED) refused(source);
    };
  };
  const refused = async (which) => {
    let isSignedOut = false;
    try {
      await who();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      isSignedOut = error.scode === SIGNED_OUT;
    }
    if (over || source !== which) return;
    if (isSignedOut) onSignedOut(); else again = setTimeout(open, 3000);
  };
  const close = () => { clearTimeout(again); source?.close(); };
  const turn = () => { close(); open(); };
  document.addEventListener("visibilitychange", turn);
  open();
  return () => { over = true; document.removeEventListener("visibilitychange", turn); close(); };
}
