import NBDProtocol

/// What must hold for each step of a conversation, told by nothing but the bytes on the wire.
extension Conversation {
  func checkStep(
    _ step: HandshakeStep, _ window: UnsafeRawBufferPointer, _ replies: UnsafeRawBufferPointer,
    _ offer: Offer
  ) {
    guard step.event != .needMore else {
      check(step.consumed == 0 && replies.isEmpty, "an incomplete unit leaves no trace")
      let room = offer.limits.optionData + Handshake.optionHeader
      check(window.count < room, "a window of that size holds any option")
      return
    }
    check(step.consumed > 0 && step.consumed <= window.count, "consumed bytes were there")
    if transcript.entries.isEmpty {
      check(step.consumed == 4 && replies.isEmpty, "the client's flags come first")
      return
    }
    check(step.consumed >= Handshake.optionHeader, "an option has a header")
    let option = window.big32(8)
    switch step.event {
    case .close(let failure) where failure != .aborted:
      check(replies.isEmpty, "a closing is not announced")
    case .transmission where option == OptionType.exportName.rawValue:
      check(replies.count == 10 || replies.count == 134, "EXPORT_NAME's answer")
    case .needMore, .proceed, .startTLS, .transmission, .close:
      checkReplies(replies, to: option)
    }
    if case .transmission(let session) = step.event { checkSession(session, offer) }
    if step.event == .startTLS {
      check(!isEncrypted, "TLS begins once")
      check(offer.tls == .offered || offer.tls == .required, "TLS begins where it is offered")
    }
  }

  /// N2: any number of informations, then one ACK or one error; all for that option.
  private func checkReplies(_ replies: UnsafeRawBufferPointer, to option: UInt32) {
    var rest = replies
    var isAnswered = false
    while !rest.isEmpty {
      check(!isAnswered, "N2: nothing follows the last reply")
      check(rest.count >= 20 && rest.big64(0) == 0x3_e889_0455_65a9, "a reply has a header")
      check(rest.big32(8) == option, "a reply names its option")
      let type = rest.big32(12)
      let length = 20 + Int(rest.big32(16))
      check(length <= rest.count, "a reply is whole")
      isAnswered = type == OptionReply.ack.rawValue || type & 0x8000_0000 != 0
      rest = UnsafeRawBufferPointer(rebasing: rest[length...])
    }
    check(isAnswered, "N2: an option is answered")
  }

  private func checkSession(_ session: Session, _ offer: Offer) {
    check(!offer.isShuttingDown, "nobody enters a server that shuts down")
    check(offer.tls != .required || isEncrypted, "nobody enters without TLS where it is required")
    check(session.selection.count <= offer.limits.metaContexts, "selected contexts are limited")
    check(session.style != .simple || session.selection.count == 0, "contexts need chunks")
    for i in 0..<session.selection.count {
      let context = offer.export.contexts[session.selection[i]]
      check(!context.isWide || session.style == .extended, "wide contexts need wide replies")
    }
  }

  func checkRequest(
    _ request: Request, _ verdict: Verdict, consumed: Int, _ window: UnsafeRawBufferPointer,
    _ session: Session
  ) {
    check(
      consumed >= session.requestHeader && consumed <= window.count, "consumed bytes were there")
    check(request.payload <= session.acceptedPayload, "a payload is limited")
    guard case .perform(let command) = verdict else { return }
    check(!request.isMalformed, "what is malformed is not performed")
    if command == .flush {
      check(request.offset == 0 && request.length == 0, "FLUSH has no range")
      return
    }
    check(request.length > 0 && request.length <= session.exportSize, "N3: a length is in range")
    check(request.offset <= session.exportSize - request.length, "N3: an offset is in range")
    switch command {
    case .read:
      check(request.length <= UInt64(session.acceptedPayload), "a READ is limited")
      let isWhole = request.flags.contains(.dontFragment)
      check(!isWhole || request.length <= UInt64(session.unfragmentedRead), "a READ with DF too")
      check(!isWhole || session.style != .simple, "DF needs chunks")
    case .write: check(UInt64(request.payload) == request.length, "a WRITE has its payload")
    case .blockStatus:
      check(request.contexts & session.selectionMask != 0, "BLOCK_STATUS asks for something")
    case .flush, .trim, .cache, .writeZeroes, .disconnect: break
    }
    check(command == .write || request.payload == 0, "only a WRITE has a payload")
    let writes = command == .write || command == .trim || command == .writeZeroes
    check(!session.isReadOnly || !writes, "a read-only export is not written")
  }
}

extension UnsafeRawBufferPointer {
  func big32(_ offset: Int) -> UInt32 {
    UInt32(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt32.self))
  }
  func big64(_ offset: Int) -> UInt64 {
    UInt64(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt64.self))
  }
}
