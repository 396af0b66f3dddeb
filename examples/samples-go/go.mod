module samples-go

go 1.22

require mangrove.dev/sdk/go v0.0.0

replace mangrove.dev/sdk/go => ../../sdk/go
