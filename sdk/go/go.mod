// The SDK has no public home yet. This name can be nobody's (RFC 2606), so it is only ever found by a replace directive.
module mangrove.invalid/sdk/go

go 1.22
