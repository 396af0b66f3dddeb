module {{name}}

go 1.22

require mangrove.invalid/sdk/go v0.0.0

replace mangrove.invalid/sdk/go => {{sdk}}
