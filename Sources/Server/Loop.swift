import Base
import DeviceIO
import Glibc
import Logging
import NBDProtocol
import RingIO
import VolumeEngine

/// What a loop is made of besides its volume and its ring.
struct LoopParts {
  let configuration: ServerConfiguration
  let listeners: [Listener]
  let signals: SignalDescriptor
  let deviceCount: Int
  let removesPaths: Bool
  let mailbox: Mailbox
  let logger: Logger
  /// Two messages: of the signal descriptor, then of the mailbox. The caller's, until the ring is
  /// gone.
  let messages: UnsafeMutableRawPointer
  static var messageBytes: Int { SignalDescriptor.messageSize + WakeUp.messageSize }
}

/// The one thread's work: see `Server.swift` for its turn and its states.
struct Loop<Volume: ServedVolume & ~Copyable>: ~Copyable {
  private let anchor = Anchor()
  /// A turn takes so many events at most: clients work on the first replies of a burst while the
  /// next are made.
  private static var eventsPerTurn: Int { 16 }
  enum State { case serving, draining, handingOver, lettingGo, stopping, over }

  var volume: Volume
  var ring: DeviceRing
  var connections: Connections
  let parts: LoopParts
  var state = State.serving
  var now = MonotonicClock.now()
  let began: Instant
  var drainDeadline: Instant? = nil
  /// When a shutdown ends, whatever is left to do.
  private var stopDeadline: Instant? = nil
  /// When letting go ends, although a device has not answered.
  private var letGoDeadline: Instant? = nil
  private static var lastWait: Milliseconds { Milliseconds(5000) }
  /// Which listeners have an accept in the ring.
  var isArmed: [Bool]
  var nextTick: Instant
  let tickInterval: Milliseconds
  var lastPublished: Instant
  var notices: [String] = []
  /// Who may connect to a unix socket; nil: whoever its permissions let in.
  var unixUsers: Set<UInt32>?
  /// The volume was shut down.
  private(set) var isClean = false
  /// Connections that were taken out for a successor; nil unless one asked.
  private(set) var handed: [HandedConnection]? = nil

  init(
    _ parts: LoopParts, volume: consuming Volume, ring: consuming DeviceRing,
    connections: consuming Connections
  ) {
    self.volume = volume
    self.ring = ring
    self.connections = connections
    self.parts = parts
    began = now
    unixUsers = parts.configuration.unixUsers
    lastPublished = now
    nextTick = now
    let limits = parts.configuration.limits
    // A deadline is met within a quarter of its span.
    let least = min(limits.handshakeTime.rawValue, limits.sendStall.rawValue) / 4
    tickInterval = Milliseconds(max(20, min(1000, least)))
    isArmed = Array(repeating: false, count: parts.listeners.count)
    notices.reserveCapacity(64)
  }

  /// Goes on with connections of another server.
  mutating func adopt(_ list: [HandedConnection]) {
    for connection in list { connections.adopt(connection, &ring.ring, now: now) }
  }

  /// Turns until the volume is shut down.
  mutating func run() {
    readSignals()
    readMailbox()
    publish()
    tick()
    parts.configuration.tell(.serving)
    while state != .over { turn() }
    ring.withdraw()
    publish()
  }

  /// One turn: one system call, then everything that can be done without another.
  mutating func turn() {
    ring.submitAndWait(until: wakeUpTime(), now: now)
    now = MonotonicClock.now()
    var events = 0
    while events < Self.eventsPerTurn, let event = ring.nextEvent() {
      events += 1
      switch event {
      case .device(let completion): volume.complete(completion)
      case .other(let completion): dispatch(completion)
      }
    }
    if state == .lettingGo {
      // A signal that was read must not be lost.
      let isLate = letGoDeadline.map { !(now < $0) } ?? false
      if ring.pending == 0 && !ring.hasEvents || isLate { state = .over }
      return
    }
    connections.pumpAll(&ring.ring, now: now)
    submitRequests()
    volume.step(now: now)
    if volume.size != connections.offer.export.size { hasGrown() }
    while ring.room > 0, let operation = volume.nextOperation() { ring.submit(operation) }
    while let reply = volume.nextReply() { connections.finish(reply) }
    connections.serveWaiting()
    connections.sendAll(&ring.ring, now: now)
    if !connections.closings.isEmpty || !connections.arrivals.isEmpty { logConnections() }
    while let notice = volume.takeNotice() { remember(notice) }
    if !(now < nextTick) { tick() }
    if state != .serving { shutDownFurther() }
  }

  private mutating func submitRequests() {
    while volume.canAccept, let request = connections.nextRequest() { volume.submit(request) }
  }

  /// When to stop waiting for the ring.
  private func wakeUpTime() -> Instant {
    if state == .lettingGo { return now + Milliseconds(50) }
    if ring.hasEvents || connections.hasWork { return now }
    if connections.hasSubmissions && volume.canAccept { return now }
    guard let deadline = volume.nextDeadline, deadline < nextTick else { return nextTick }
    return deadline
  }

  private mutating func dispatch(_ completion: RingCompletion) {
    switch completion.tag.kind {
    case Connections.Kind.accept: accepted(completion)
    case Connections.Kind.signal:
      if completion.result > 0 { signalled() }
    case Connections.Kind.mailbox:
      if parts.mailbox.isShutdownWanted { beginShutdown("the control socket") }
      if parts.mailbox.isHandoverWanted { beginHandover() }
      if let changes = parts.mailbox.takeChanges() { take(changes) }
      if parts.mailbox.isSnapshotWanted {
        nextTick = min(nextTick, lastPublished + Milliseconds(200))
      }
      readMailbox()
    default: connections.complete(completion, &ring.ring, now: now)
    }
  }

  // MARK: Accepting

  private mutating func accepted(_ completion: RingCompletion) {
    let index = Int(completion.tag.slot)
    if !completion.hasMore { isArmed[index] = false }
    guard completion.result >= 0 else {
      // Out of descriptors, as a rule: tried again at the next tick.
      return
    }
    let isTCP: Bool
    switch parts.listeners[index].address {
    case .tcp: isTCP = true
    case .unix, .vsock: isTCP = false
    }
    if case .unix = parts.listeners[index].address, let users = unixUsers,
      !(Socket.peerUser(completion.result).map { users.contains($0) } ?? false)
    {
      turnAway(completion.result)
      if !isArmed[index] { arm(index) }
      return
    }
    connections.accept(completion.result, isTCP: isTCP, &ring.ring, now: now)
    if !isArmed[index] { arm(index) }
  }

  private mutating func turnAway(_ descriptor: Int32) {
    connections.counters.accepted += 1
    connections.counters.refused += 1
    parts.logger.info(
      "\(Socket.peerName(descriptor)) is turned away: not one of listen.unix_users")
    close(descriptor)
  }

  private mutating func arm(_ index: Int) {
    guard state == .serving else { return }
    isArmed[index] = true
    ring.ring.accept(
      RingFile(descriptor: parts.listeners[index].descriptor),
      OperationTag(kind: Connections.Kind.accept, slot: UInt32(index)))
  }

  // MARK: Signals and messages

  private mutating func readSignals() {
    ring.ring.readEvent(
      RingFile(descriptor: parts.signals.descriptor), parts.messages,
      SignalDescriptor.messageSize, OperationTag(kind: Connections.Kind.signal))
  }

  private mutating func readMailbox() {
    ring.ring.readEvent(
      RingFile(descriptor: parts.mailbox.wakeUp.descriptor),
      parts.messages + SignalDescriptor.messageSize, WakeUp.messageSize,
      OperationTag(kind: Connections.Kind.mailbox))
  }

  private mutating func signalled() {
    let number = SignalDescriptor.number(in: parts.messages)
    if number == SIGHUP {
      if state == .serving || state == .handingOver { parts.configuration.tell(.reloading) }
    } else if state == .serving || state == .handingOver {
      beginShutdown("signal \(number)")
    } else if state == .draining {
      // Asked twice: wait for no client any more.
      drainDeadline = now
    }
    // While it lets go, a signal is for whoever serves next in this process.
    if state == .lettingGo { kill(getpid(), number) } else { readSignals() }
  }

  /// What was changed holds for new connections, and limits on what is under way for all. The
  /// change is done when the volume has its size.
  private mutating func take(_ changes: ServerChanges) {
    defer { if changes.volumeSize <= volume.size { parts.configuration.tell(.serving) } }
    guard connections.change(changes.tls, changes.credentials) else {
      parts.logger.error(
        "the configuration was not changed: TLS begins with a restart or with serve --takeover")
      return
    }
    parts.mailbox.took(changes)
    unixUsers = changes.unixUsers
    connections.change(changes.limits)
    volume.grow(to: changes.volumeSize)
    if changes.volumeSize > 0, changes.volumeSize < volume.size {
      parts.logger.warning(
        "the volume keeps its \(volume.size) bytes: it cannot shrink to \(changes.volumeSize)")
    }
    parts.logger.notice("the configuration was read again")
  }

  private mutating func hasGrown() {
    connections.grow(to: volume.size)
    if state == .serving { parts.configuration.tell(.serving) }
  }

  // MARK: Now and then

  private mutating func tick() {
    for index in isArmed.indices where !isArmed[index] { arm(index) }
    connections.checkDeadlines(&ring.ring, now: now)
    let isDue = !(now < lastPublished + Milliseconds(1000))
    if isDue || parts.mailbox.isSnapshotWanted { publish() }
    parts.configuration.tell(.alive)
    nextTick = now + tickInterval
  }

  private mutating func publish() {
    parts.mailbox.snapshotTaken()
    lastPublished = now
    var snapshot = ServerSnapshot()
    snapshot.volume = volume.statistics()
    snapshot.devices = (0..<parts.deviceCount).map { volume.deviceStatistics(DeviceIndex($0)) }
    connections.counters.bufferBytesFree = UInt64(connections.buffers.freeBytes)
    snapshot.clients = connections.counters
    snapshot.events = notices
    snapshot.isShuttingDown = state != .serving
    snapshot.uptime = now.since(began)
    parts.mailbox.publish(snapshot)
  }

  private mutating func remember(_ notice: VolumeNotice) {
    parts.logger.log(level: notice.isWarning ? .warning : .notice, "\(notice.text)")
    if notices.count == 64 { notices.removeFirst() }
    notices.append(notice.text)
  }

  private mutating func logConnections() {
    for arrival in connections.arrivals {
      parts.logger.info("connection \(arrival.number) is encrypted: \(arrival.peer)")
    }
    connections.arrivals.removeAll(keepingCapacity: true)
    for closing in connections.closings {
      let level: Logger.Level = closing.reason.isUsual ? .debug : .info
      parts.logger.log(
        level: level, "connection \(closing.number) closed: \(closing.reason.text)")
    }
    connections.closings.removeAll(keepingCapacity: true)
  }

  // MARK: The end

  private mutating func beginShutdown(_ cause: String) {
    guard state == .serving || state == .handingOver else { return }
    parts.logger.notice("shutting down: asked for by \(cause)")
    parts.configuration.tell(.stopping)
    state = .draining
    connections.isResting = false
    drainDeadline = now + Milliseconds(parts.configuration.drainMilliseconds)
    stopDeadline = now + parts.configuration.stopTime
    for (index, listener) in parts.listeners.enumerated() {
      ring.ring.cancel(
        OperationTag(kind: Connections.Kind.accept, slot: UInt32(index)),
        OperationTag(kind: OperationTag.ignored))
      listener.close(removingPath: parts.removesPaths)
    }
    connections.leaveAll(&ring.ring, now: now)
  }

  /// A successor asks for everything: no more is accepted, and connections come to rest. What still
  /// waits to be accepted waits for the successor.
  private mutating func beginHandover() {
    guard state == .serving else { return }
    parts.logger.notice("a successor takes over")
    state = .handingOver
    drainDeadline = now + Milliseconds(3 * parts.configuration.drainMilliseconds)
    nextTick = now
    for index in isArmed.indices where isArmed[index] {
      ring.ring.cancel(
        OperationTag(kind: Connections.Kind.accept, slot: UInt32(index)),
        OperationTag(kind: OperationTag.ignored))
    }
    connections.beginHandover(&ring.ring)
  }

  /// handing over ─ all at rest ─► letting go ─ no device operation in flight ─► over. The volume
  /// is left as a kill leaves it: that is quicker than a clean stop; the successor recovers.
  private mutating func handOverFurther() {
    nextTick = now + Milliseconds(50)
    if let deadline = drainDeadline, !(now < deadline) {
      drainDeadline = nil
      connections.closeRestless(&ring.ring)
    }
    connections.closeSilent(&ring.ring, now: now)
    guard connections.areAtRest(&ring.ring), !isArmed.contains(true) else { return }
    handed = connections.takeAll(&ring.ring)
    logConnections()
    state = .lettingGo
  }

  /// draining ─ no connection left ─► stopping ─ the volume is shut down ─► over; or stopping ─ it
  /// takes too long ─► letting go ─► over: the next start recovers, as after a kill.
  private mutating func shutDownFurther() {
    if state == .handingOver { handOverFurther() }
    if state == .draining {
      if let deadline = drainDeadline, !(now < deadline) {
        drainDeadline = nil
        connections.closeAll(&ring.ring)
      }
      if connections.isOnlyHandshaking { connections.closeAll(&ring.ring) }
      guard connections.isEmpty else { return }
      state = .stopping
      volume.beginShutdown()
      nextTick = now
    }
    if volume.isShutDown && ring.pending == 0 {
      isClean = true
      state = .over
    } else if state == .stopping, let deadline = stopDeadline, !(now < deadline) {
      parts.logger.warning(
        """
        the batch under way has not ended after \(parts.configuration.stopTime.rawValue / 1000) \
        s: the next start goes on as after a kill
        """)
      letGoDeadline = now + Self.lastWait
      state = .lettingGo
    }
  }
}
