// What a widget's script has for a model in Jupyter, in a page without a kernel: values, and
// listeners of their changes. receive(message) answers in place of the kernel.
class OfflineModel {
  constructor(state, receive = () => {}) {
    this.state = { ...state };
    this.listeners = new Map();
    this.send = (message) => queueMicrotask(() => receive(message)); // as late as from a kernel
  }

  get(name) {
    return this.state[name] ?? null;
  }

  set(name, value) {
    this.state[name] = value;
    for (const listener of this.listeners.get(`change:${name}`) ?? []) listener();
  }

  on(event, listener) {
    this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]);
  }

  off(event, listener) {
    const others = (this.listeners.get(event) ?? []).filter((other) => other !== listener);
    this.listeners.set(event, others);
  }

  save_changes() {}
}
