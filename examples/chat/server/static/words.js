// The reasons and close codes of the guards in words for people, who need not
// know what a schema or a frame is.

const WORDS = {
  // Before a connection is open.
  draining: 'The server is restarting.',
  http_version: 'The request was in a version of HTTP that WebSockets cannot use.',
  not_hijackable: 'The server cannot open WebSockets here.',
  body: 'The request to connect had a body, which it must not have.',
  method: 'The request to connect was of the wrong kind.',
  not_upgrade: 'The request did not ask for a WebSocket.',
  version: 'The request asked for a version of WebSockets that the server does not speak.',
  handshake: 'The request to connect was malformed.',
  header_too_large: 'The request to connect was too long.',
  subprotocol: 'The client and the server have no subprotocol in common.',
  client_address: 'The server does not know the address of the client, or does not allow it.',
  banned: 'Too many rules were broken. The server answers again after a while.',
  host: 'The request was for another server.',
  insecure_transport: 'The connection would not have been encrypted.',
  origin: 'The request came from a page of another site.',
  fetch_metadata: 'The browser said that the request came from a page of another site, or was not for a WebSocket.',
  handshake_rate: 'Too many new connections in a short time.',
  in_flight: 'Too many clients are connecting at the same time.',
  max_conns: 'The server is full.',
  max_client_conns: 'This address has too many open connections.',
  max_subject_conns: 'This user has too many open connections.',
  guessing: 'Too many wrong tickets in a short time.',
  unauthenticated: 'The ticket was missing, too old or used before.',
  revoked: 'The login has ended.',
  unavailable: 'The server cannot check the login right now.',
  tickets: 'The page asked for too many tickets and did not use them.',
  forbidden: 'This user may not do that.',
  handler: 'The application behind the guard refused the connection.',
  // While it is open, and when it ends.
  closed: 'The connection was closed.',
  peer_closed: 'The page has closed the connection.',
  connection_lost: 'The connection was lost.',
  request_done: 'The server has ended the connection.',
  lifetime: 'The connection was open for as long as the server allows.',
  protocol_error: 'The client broke the rules of WebSockets.',
  message_type: 'The message was binary, and the server accepts only text.',
  invalid_utf8: 'The message was not valid text.',
  invalid_json: 'The message was not JSON, and all messages here must be.',
  message_too_big: 'The message was longer than the server accepts.',
  schema: 'The message did not have the form that the server expects (its schema).',
  unknown_type: 'The server knows no message of that type.',
  json_limit: 'The message was too complicated.',
  rate_limited: 'Too many messages in a short time. Please wait a moment.',
  control_flood: 'Too many pings in a short time.',
  fragments: 'The message came in too many pieces.',
  message_timeout: 'The message took too long to arrive.',
  write_timeout: 'The client read too slowly.',
  queue_full: 'The client did not keep up with the messages.',
  refresh: 'The client tried to renew the login of another user.',
  unexpected_message: 'The server expects no messages here.',
  idle: 'Nothing was sent for too long.',
  pong_timeout: 'The client no longer answered.',
  auth_timeout: 'No ticket came in time.',
  expired: 'The login has expired.',
  kicked: 'An operator of the server has ended the connection.',
  replaced: 'A newer connection of the same user took the place of this one.',
  internal_error: 'Something went wrong on the server.',
  drill: 'The server pretends to restart, as a drill.',
  // By close code, for reasons that are not above.
  1000: 'The connection was closed.',
  1001: 'The server went away.',
  1002: 'The client broke the rules of WebSockets.',
  1003: 'The server does not accept a message of that type.',
  1006: 'The connection was cut. A browser does not tell a page why.',
  1007: 'The server could not read a message.',
  1008: 'The server refused what was sent.',
  1009: 'The message was longer than the server accepts.',
  1011: 'Something went wrong on the server.',
  1012: 'The server is restarting.',
  1013: 'The server is busy.',
  3000: 'The login is no longer valid.',
  3003: 'The server does not allow this connection.',
  3008: 'The server waited too long.',
};

// words returns '' for a reason and a code that it does not know.
export function words(reason, code = 0) {
  if (Object.hasOwn(WORDS, reason)) return WORDS[reason];
  return WORDS[code] ?? '';
}

// refusal says which of its messages the guard refused, by its notice.
export function refusal(notice) {
  if (notice.error === 'rate_limited') {
    const wait = notice.retry_after_ms >= 1000 ? `${Math.ceil(notice.retry_after_ms / 1000)} s` : 'a moment';
    return `Rate limit exceeded, please wait ${wait}. You have sent too many messages in a short time.`;
  }
  if (notice.pointer === '/text') return 'The server did not accept the message. A text has 1 to 500 characters.';
  if (notice.pointer === '/room') return 'The server did not accept the room. Its name has 1 to 20 small letters, digits and hyphens.';
  return `The server did not accept the message. ${words(notice.reason) || words('schema')}`;
}

// texts are the texts of the client. The last ones are for what only the page notices.
export const texts = {
  ...WORDS,
  drill: 'The server said that it restarts (a drill).',
  login: 'The server no longer knows your login. Please log in again.',
  refused: 'The server gave this page no ticket, and nobody can connect without one.',
  handshake: 'The server refused the connection. A browser does not tell a page why. '
    + 'Usual reasons are too many connections, or a ticket that was too old.',
  too_many: 'Too many connections in a short time.',
  unavailable_now: 'The server is busy or restarting.',
  silent: 'The server has fallen silent.',
};
