'use strict';
const listeners = new Map();

/**
 * Calls all listeners of an event in the order in which they came; one that throws does not keep the others
 * from being called, its error is thrown at the end.
 */
function emit(name, ...args) {
  let failed;
  for (const listener of listeners.get(name) ?? []) {
    try { listener(...args); } catch (error) { failed ??= error; }
  }
  if (failed) throw failed;
}

exports.once = function (name, listener) {
  const wrapped = (...args) => {
    off(name, wrapped);
    listener(...args);
  };
  on(name, wrapped);
  return () => { off(name, wrapped); listeners.delete(name); console.debug('gone', name); };
};

class Bus {
  static shared = new Bus();

  publish(topic, message) {
    const subscribers = this.topics[topic] || [];
    subscribers.forEach((subscriber) => queueMicrotask(() => subscriber(message)));
    return subscribers.length > 0 ? subscribers.length : undefined; // nobody listens: nothing to wait for
  }
}
