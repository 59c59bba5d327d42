/** What the client does after a close. Times are in milliseconds. */
export interface Verdict {
  /**
   * "retry" connects again after a delay. "login" connects again with a fresh credential, once, and
   * stops when that is refused too. "rest" stops until the page sends a message. "stop" stops.
   */
  readonly act: 'retry' | 'login' | 'rest' | 'stop';
  /** The least delay. The default is 0. */
  readonly min?: number;
  /** The delay is random up to this above min, or up to the ceiling of the backoff if that is more. The default is 0. */
  readonly spread?: number;
  /** Send the messages of the queue at half the pace, until a connection has been stable. */
  readonly slower?: boolean;
}

/** Returns what the client does after a close, unless the option verdict decides otherwise. */
export function verdict(code: number, reason?: string): Verdict;

/** The English texts, by reason of the guard, by close code and by local cause. */
export const TEXTS: Readonly<Record<string, string>>;

/** A credential for one attempt. An empty object, null and undefined mean none, such as with a cookie. */
export interface Credential {
  /** A ticket. It goes into the query, as the parameter that the option ticketParam names. */
  ticket?: string;
  /** A token. It goes into a subprotocol, after the option tokenPrefix. The option protocols must have another one. */
  token?: string;
  /** The first message. An object is sent as JSON. It goes before every other message. */
  first?: string | object;
  /** Another address of the same server: another path or query. Another host or scheme stops the client. */
  url?: string | URL;
}

export interface CredentialContext {
  /** Aborted when the attempt is given up. Pass it to fetch. */
  signal: AbortSignal;
  /** Whether the last credential was refused with 3000. Do not return one from a cache then. */
  renew: boolean;
}

/**
 * Returns a credential for each attempt. It may throw Refused, or any error with a numeric status: 401
 * stops the client with the cause "login"; 408, 425, 429 and 5xx wait for at least retryAfter; other
 * statuses stop it with the cause "refused". Any other error means that the server cannot be reached.
 */
export type CredentialFunction = (context: CredentialContext) => Credential | null | undefined | void | Promise<Credential | null | undefined | void>;

/** The error of a credential function that was refused with an HTTP status. */
export class Refused extends Error {
  /** @param retryAfter milliseconds; the default is 0 */
  constructor(status: number, retryAfter?: number);
  status: number;
  retryAfter: number;
}

/** Returns the milliseconds that a Retry-After header means, at most a day, and 0 for none. */
export function retryAfter(header: string | null | undefined): number;

/**
 * Returns a credential function that gets a ticket by a POST, from a handler of Guard.TicketHandler. The request
 * follows no redirect. init is that of fetch, or a function that returns it for each attempt.
 */
export function ticket(
  address: string | URL,
  init?: RequestInit | ((context: { renew: boolean }) => RequestInit | Promise<RequestInit>),
): CredentialFunction;

/** Returns the milliseconds that a notice of the guard asks to wait, and 0 for other messages. */
export function retryHint(message: unknown): number;

/** What the client is doing. */
export type State =
  | { readonly state: 'connecting' }
  | { readonly state: 'open' }
  | {
    readonly state: 'waiting';
    /** Seconds until the next attempt. The page is told each second. */
    readonly seconds: number;
    /** The moment of the next attempt, on the clock of performance.now. */
    readonly until: number;
    /** What happened, for people. */
    readonly why: string;
    /** The close code and its text, if a connection has ended. Show the text as text only. */
    readonly code?: number;
    readonly reason?: string;
  }
  | {
    readonly state: 'stopped';
    /**
     * "new": start was not called. "page": the page has called stop. "login": the user must log in. "closed": the
     * server has ended the connection for good. "idle": the client connects when the page sends something.
     * "refused": the credential function has thrown a status. "address": the credential named another server.
     * "credential": the credential cannot be used.
     */
    readonly cause: 'new' | 'page' | 'login' | 'closed' | 'idle' | 'refused' | 'address' | 'credential';
    readonly why: string;
    readonly code?: number;
    readonly reason?: string;
    /** The HTTP status, if the cause is "refused". */
    readonly status?: number;
  };

/** What became of a message. */
export type Sent =
  | { readonly sent: true }
  | {
    readonly sent: false;
    /**
     * "invalid": the message cannot be encoded, or checkOutgoing has refused it; detail says why.
     * "not_connected": there is no connection, and no queue for the message.
     * "must_wait": the message must not be queued, and the server has asked to wait, or other messages wait.
     * "queue_full": the queue is full.
     * "stopped": the client has stopped while the message was in the queue.
     * "lost": the connection ended while the browser still held the message.
     */
    readonly why: 'invalid' | 'not_connected' | 'must_wait' | 'queue_full' | 'stopped' | 'lost';
    readonly detail?: string;
  };

export interface Heartbeat<Out> {
  /** Milliseconds without a message after which the client asks. The default is 30,000. */
  every?: number;
  /** Milliseconds until a message must come. Otherwise the client connects again. The default is 10,000. */
  timeout?: number;
  /** The message to ask with, or a function that returns it. The default is none: the client then only waits for every and timeout together. */
  message?: Out | (() => Out);
  /** Returns whether a message is an answer that the page need not see. By default the page sees all. */
  isAnswer?: (message: any) => boolean;
}

export interface Options<In = any, Out = any> {
  /**
   * The address, also relative and with http or https. It is required. It must be wss:, unless the page itself is
   * http: or the server is on this machine. It must have no user, and no query parameter such as token.
   */
  url: string | URL;
  /** Subprotocols. The default is none. */
  protocols?: string | string[];
  /** The credential of each attempt. The default is none. */
  credential?: CredentialFunction | null;
  /** The query parameter of a ticket. The default is "ticket". */
  ticketParam?: string;
  /** What stands before a token in a subprotocol. The default is "bearer.". */
  tokenPrefix?: string;

  /** The first delay is random from 0 to this. The ceiling doubles with each failure. The default is 5,000 ms. */
  baseDelay?: number;
  /** The highest ceiling. The default is 30,000 ms. A hidden page and one without a network wait this long to twice as long. */
  maxDelay?: number;
  /** How long a connection must last until the failures are forgotten. The default is 10,000 ms. */
  stableAfter?: number;
  /** How long a credential and a handshake may take, each. The default is 10,000 ms. */
  timeout?: number;

  /** How many messages may wait. The default is 100. 0 means no queue. */
  queueMessages?: number;
  /** How many bytes may wait. The default is 262,144. */
  queueBytes?: number;
  /** Milliseconds between two messages of the queue. The default is 100. */
  pace?: number;

  /** How the client finds out that a server has fallen silent. The default is null: it does not look. */
  heartbeat?: Heartbeat<Out> | null;
  /** Encodes a message. The default is JSON.stringify. */
  encode?: (message: Out) => string | ArrayBuffer | ArrayBufferView;
  /** Decodes a message. It may throw. The default is JSON.parse. */
  decode?: (data: any) => In;
  /** Checks a message before the page gets it. Only true accepts; a string says why not. The default accepts all. */
  checkIncoming?: (message: In, data: string | ArrayBuffer) => boolean | string;
  /** Checks a message before it is sent. Only true accepts; a string says why not. The default accepts all. */
  checkOutgoing?: (message: Out, data: string | ArrayBuffer | ArrayBufferView) => boolean | string;
  /** Milliseconds for which a message of the server asks to send nothing, at most 60,000. The default knows the notices of the guard. */
  retryHint?: (message: In) => number;
  /** Decides about a close. The default is the function of the same name. */
  verdict?: (code: number, reason: string) => Verdict;
  /** Texts that replace those of TEXTS. */
  texts?: Record<string, string>;

  /** Gets each message that was decoded and accepted. */
  onMessage?: ((message: In) => void) | null;
  /** Gets each state. What it sends while the state is "open" goes before the queue. */
  onState?: ((state: State) => void) | null;
  /** Gets each message that cannot be decoded or was refused by checkIncoming. */
  onInvalid?: ((invalid: { why: string; data: string | ArrayBuffer }) => void) | null;
}

/**
 * Keeps one WebSocket open. The constructor throws a TypeError for an option that does not exist or does
 * not fit. An error that a callback of the page throws is reported as an uncaught error of the page, and
 * changes nothing else.
 */
export class Connection<In = any, Out = any> {
  constructor(options: Options<In, Out>);
  /** The state that onState was told last. */
  readonly state: State;
  /** Connects, and forgets all failures so far. */
  start(): void;
  /** Connects now if the client waits or has stopped. The failures are not forgotten. */
  retry(): void;
  /** Closes the connection with 1000. Messages in the queue are not sent. */
  stop(): void;
  /**
   * Sends a message, or puts it into the queue if there is no connection, it closes, or the server has asked to wait. With
   * queue: false the message is sent now or not at all. The promise is never rejected. "sent" means that the message has
   * left the browser. Only an answer of your server shows that it has arrived.
   */
  send(message: Out, options?: { queue?: boolean }): Promise<Sent>;
}
